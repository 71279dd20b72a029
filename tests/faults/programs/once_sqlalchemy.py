"""Chains of atomic tasks with SQLAlchemy, whose effects are rows that can be counted."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from asynctasq import task
from asynctasq_sqlalchemy import create_worker_session_factory, task_session
from killed_at_step import commit, make_deadly, note_doubt, statement  # type: ignore[import-not-found]
from sqlalchemy.dialects.mysql.aiomysql import MySQLDialect_aiomysql
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

#: Steps of one chain.
LENGTH = 3

for _dialect in (PGDialect_asyncpg, MySQLDialect_aiomysql):
    make_deadly(_dialect, "do_execute", lambda _cursor, sql, *_: statement(sql))
    make_deadly(_dialect, "do_commit", commit)


class Base(DeclarativeBase):
    _asynctasq_session_factory: Any


class Chain(Base):
    """Attributes:
    value: How many of its steps are done, counted by them.
    first_call: The id of the call that begins it.
    """

    __tablename__ = "chains"
    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[int] = mapped_column(default=0)
    first_call: Mapped[str | None]


class Effect(Base):
    """What one step has done."""

    __tablename__ = "effects"
    id: Mapped[int] = mapped_column(primary_key=True)
    chain_id: Mapped[int]
    step: Mapped[int]


@task(atomic=True, result_ttl=600)
async def advance(chain: Chain, step: int) -> int:
    """One step, which dispatches the next."""
    session = task_session()
    chain.value = Chain.value + 1
    session.add(Effect(chain_id=chain.id, step=step))
    if step + 1 < LENGTH:
        await advance(chain, step + 1).dispatch()
    return step


def forked() -> None:
    """Use the database of this process."""
    scheme, rest = os.environ["ONCE_DATABASE_URL"].split("://")
    driver = {"postgresql": "asyncpg", "mysql": "aiomysql"}[scheme]
    Base._asynctasq_session_factory = create_worker_session_factory(f"{scheme}+{driver}://{rest}")


async def begin(chains: int) -> None:
    """Begin chains, each in a transaction of its own, and one that is rolled back before each."""
    async with Base._asynctasq_session_factory() as session:
        for _ in range(chains):
            for is_real in (False, True):
                chain = Chain()
                session.add(chain)
                await session.flush()
                handle = await advance(chain, 0).dispatch()
                chain.first_call = handle.id
                await (session.commit() if is_real else session.rollback())


def send(chains: int) -> None:
    """The program that begins chains."""
    asyncio.run(begin(chains))


async def begin_in_doubt(chains: int) -> None:
    """Begin chains whose commits may fail; what their handles say then goes to a file."""
    for _ in range(chains):
        handle = None
        try:
            async with Base._asynctasq_session_factory() as session:
                session.add(chain := Chain())
                await session.flush()
                handle = await advance(chain, 0).dispatch()
                chain.first_call = handle.id
                await session.commit()
        except Exception as e:  # noqa: BLE001 - of the driver
            if handle is not None:
                note_doubt(e, await handle.status())


def doubt(chains: int) -> None:
    """The program that begins chains over a bad network."""
    asyncio.run(begin_in_doubt(chains))

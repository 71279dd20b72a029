"""Chains of atomic tasks, whose effects are rows that can be counted."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from asynctasq import task
from asynctasq_sqlalchemy import create_worker_session_factory, tables, task_session
from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

#: Steps of one chain.
LENGTH = 3


class Base(DeclarativeBase):
    _asynctasq_session_factory: Any


class Chain(Base):
    """Attributes:
    value: How many of its steps are done, counted by them.
    """

    __tablename__ = "chains"
    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[int] = mapped_column(default=0)


class Effect(Base):
    """What one step has done."""

    __tablename__ = "effects"
    id: Mapped[int] = mapped_column(primary_key=True)
    chain_id: Mapped[int] = mapped_column(ForeignKey("chains.id"))
    step: Mapped[int]


tables(Base.metadata)
if url := os.environ.get("ONCE_DATABASE_URL"):
    Base._asynctasq_session_factory = create_worker_session_factory(url)


@task(atomic=True, result_ttl=60)
async def advance(chain: Chain, step: int) -> int:
    """One step, which dispatches the next."""
    session = task_session()
    chain.value = Chain.value + 1
    session.add(Effect(chain_id=chain.id, step=step))
    if step + 1 < LENGTH:
        await advance(chain, step + 1).dispatch()
    return step


async def begin(chains: int) -> None:
    """Begin chains, each in a transaction of its own."""
    async with Base._asynctasq_session_factory() as session:
        for _ in range(chains):
            chain = Chain()
            session.add(chain)
            await session.flush()
            await advance(chain, 0).dispatch()
            await session.commit()


def send(chains: int) -> None:
    """The program that begins chains."""
    asyncio.run(begin(chains))

"""Chains of atomic tasks with Tortoise, whose effects are rows that can be counted."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import aiomysql
import asyncpg
from asyncpg.transaction import Transaction
from asynctasq import init, task
from killed_at_step import commit, make_deadly, note_doubt, statement  # type: ignore[import-not-found]
from tortoise import Tortoise, fields
from tortoise.expressions import F
from tortoise.models import Model
from tortoise.transactions import in_transaction

#: Steps of one chain.
LENGTH = 3

for _name in ("execute", "executemany", "fetch", "fetchrow", "fetchval"):
    make_deadly(asyncpg.Connection, _name, lambda sql, *_: statement(sql))
make_deadly(Transaction, "commit", commit)
make_deadly(aiomysql.Cursor, "execute", lambda sql, *_: statement(sql))
make_deadly(aiomysql.Connection, "commit", commit)


class Chain(Model):
    """Attributes:
    value: How many of its steps are done, counted by them.
    first_call: The id of the call that begins it.
    """

    id = fields.IntField(primary_key=True)
    value = fields.IntField(default=0)
    first_call = fields.TextField(null=True)

    class Meta:
        table = "chains"


class Effect(Model):
    """What one step has done."""

    id = fields.IntField(primary_key=True)
    chain_id = fields.IntField()
    step = fields.IntField()

    class Meta:
        table = "effects"


@task(atomic=True, result_ttl=600)
async def advance(chain: Chain, step: int) -> int:
    """One step, which dispatches the next."""
    await Chain.filter(id=chain.id).update(value=F("value") + 1)
    await Effect.create(chain_id=chain.id, step=step)
    if step + 1 < LENGTH:
        await advance(chain, step + 1).dispatch()
    return step


CONFIG: dict[str, Any] = {
    "modules": {"models": ["once_tortoise"]},
    "use_tz": False,
    "timezone": "UTC",
}


def forked() -> None:
    """Use the database of this process."""
    url = os.environ["ONCE_DATABASE_URL"].replace("postgresql://", "asyncpg://")
    CONFIG["db_url"] = url
    init(tortoise_config=CONFIG)


class Never(Exception):
    """Rolls back."""


async def begin(chains: int) -> None:
    """Begin chains, each in a transaction of its own, and one that is rolled back before each."""
    await Tortoise.init(**CONFIG)
    for _ in range(chains):
        for is_real in (False, True):
            try:
                async with in_transaction():
                    chain = await Chain.create()
                    handle = await advance(chain, 0).dispatch()
                    chain.first_call = handle.id
                    await chain.save()
                    if not is_real:
                        raise Never
            except Never:
                pass
    await Tortoise.close_connections()


def send(chains: int) -> None:
    """The program that begins chains."""
    asyncio.run(begin(chains))


async def begin_in_doubt(chains: int) -> None:
    """Begin chains whose commits may fail; what their handles say then goes to a file."""
    await Tortoise.init(**CONFIG)
    for _ in range(chains):
        handle = None
        try:
            async with in_transaction():
                chain = await Chain.create()
                handle = await advance(chain, 0).dispatch()
                chain.first_call = handle.id
                await chain.save()
        except Exception as e:  # noqa: BLE001 - of the driver
            if handle is not None:
                note_doubt(e, await handle.status())
    await Tortoise.close_connections()


def doubt(chains: int) -> None:
    """The program that begins chains over a bad network."""
    asyncio.run(begin_in_doubt(chains))

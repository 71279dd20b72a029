"""Tortoise ORM on asyncpg."""

from __future__ import annotations

from typing import Any

import asynctasq
from tortoise import Tortoise, fields
from tortoise.models import Model

from bench.orms import meter

DISTRIBUTIONS = ("asynctasq-tortoise", "tortoise-orm", "asyncpg")
queries = 0


class User(Model):
    id = fields.IntField(primary_key=True)
    email = fields.CharField(max_length=255)
    name = fields.CharField(max_length=100)

    class Meta:
        table = "users"


@asynctasq.task
async def one(user: User) -> None:
    assert user.email
    meter.tick()


@asynctasq.task
async def many(users: list[User]) -> None:
    meter.tick()


async def connect(url: str) -> None:
    """Configure the ORM."""
    await Tortoise.init(
        db_url=url.replace("postgresql://", "asyncpg://"),
        modules={"models": [__name__]},
        _enable_global_fallback=True,
    )
    _count_queries()


async def make_rows(n: int) -> list[Any]:
    """Make the table and `n` rows."""
    await Tortoise.generate_schemas()
    await User.bulk_create([User(email=f"user{i}@example.com", name=f"User {i}") for i in range(n)])
    return await User.all().order_by("id")


def _count_queries() -> None:
    from tortoise.backends.asyncpg.client import AsyncpgDBClient

    execute = AsyncpgDBClient.execute_query

    async def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        global queries
        queries += 1
        return await execute(self, *args, **kwargs)

    AsyncpgDBClient.execute_query = counted


async def fetch(keys: list[int]) -> list[User]:
    """The rows of these keys, in order."""
    by_key = await User.in_bulk(keys, "id")
    return [by_key[key] for key in keys]


async def get(key: int) -> User:
    """One row."""
    return await User.get(id=key)


async def close() -> None:
    """Close the connections."""
    await Tortoise.close_connections()

"""Tortoise ORM on asyncpg."""

from __future__ import annotations

from typing import Any

import asynctasq
from tortoise import Tortoise, fields
from tortoise.models import Model

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


@asynctasq.task(result_ttl=60)
async def many(users: list[User]) -> int:
    return len(users)


async def open_rows(url: str, n: int) -> list[Any]:
    """Make `n` rows and return them."""
    await Tortoise.init(
        db_url=url.replace("postgresql://", "asyncpg://"),
        modules={"models": [__name__]},
        _enable_global_fallback=True,
    )
    await Tortoise.generate_schemas()
    await User.bulk_create([User(email=f"user{i}@example.com", name=f"User {i}") for i in range(n)])
    _count_queries()
    return await User.all().order_by("id")


def _count_queries() -> None:
    from tortoise.backends.asyncpg.client import AsyncpgDBClient

    execute = AsyncpgDBClient.execute_query

    async def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        global queries
        queries += 1
        return await execute(self, *args, **kwargs)

    AsyncpgDBClient.execute_query = counted


async def by_hand(keys: list[int]) -> None:
    """What a careful programmer writes to fetch these rows."""
    by_key = await User.in_bulk(keys, "id")
    assert len([by_key[key] for key in keys]) == len(keys)


async def close() -> None:
    """Close the connections."""
    await Tortoise.close_connections()

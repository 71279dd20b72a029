"""The same as `tortoise_shop_site`, with its rows in PostgreSQL, and no tables of asynctasq."""

from __future__ import annotations

import os

from tortoise_shop_models import Order, User, set_up, teardown

__all__ = ["Order", "User", "setup", "teardown"]


async def setup() -> None:
    """Make tables and rows."""
    await set_up(os.environ["DATABASE_URL"].replace("postgresql+asyncpg", "asyncpg"))

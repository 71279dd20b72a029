"""What the pages on Tortoise assume: two users and two orders, and Tortoise initialised."""

from __future__ import annotations

from tortoise_shop_models import Order, User, set_up, teardown

__all__ = ["Order", "User", "setup", "teardown"]


async def setup() -> None:
    """Make tables and rows."""
    await set_up("sqlite://shop.db", "asynctasq_tortoise.models")

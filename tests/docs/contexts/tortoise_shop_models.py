"""The models of the pages on Tortoise, with two users and two orders."""

from __future__ import annotations

from tortoise import Tortoise, fields
from tortoise.models import Model


class User(Model):
    """Somebody."""

    id = fields.IntField(primary_key=True)
    email = fields.CharField(max_length=255)
    orders: fields.ReverseRelation[Order]


class Order(Model):
    """Of a user."""

    id = fields.IntField(primary_key=True)
    user: fields.ForeignKeyRelation[User] = fields.ForeignKeyField(
        "models.User", related_name="orders", db_index=True
    )
    total = fields.IntField()
    is_paid = fields.BooleanField(default=False)


async def set_up(url: str, *modules: str) -> None:
    """Initialise Tortoise with these modules besides this one; make tables and rows."""
    await Tortoise.init(
        db_url=url,
        modules={"models": [__name__, *modules]},
        _enable_global_fallback=True,
    )
    await Tortoise.generate_schemas()
    ada = await User.create(email="ada@example.com")
    await User.create(email="grace@example.com")
    for total in (10, 20):
        await Order.create(user=ada, total=total)


async def teardown() -> None:
    """Close the connection."""
    await Tortoise.close_connections()

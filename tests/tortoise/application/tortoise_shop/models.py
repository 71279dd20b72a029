"""Models with every kind of key that Tortoise has, and relations."""

from __future__ import annotations

from typing import Any

from tortoise import fields
from tortoise.manager import Manager
from tortoise.models import Model


class User(Model):
    id = fields.IntField(primary_key=True)
    email = fields.CharField(max_length=255)
    name = fields.CharField(max_length=100, default="")
    tags: Any = fields.JSONField(default=list)
    created_at = fields.DatetimeField(auto_now_add=True)

    orders: fields.ReverseRelation[Order]


class Order(Model):
    user: fields.ForeignKeyRelation[User] = fields.ForeignKeyField(
        "models.User", related_name="orders"
    )
    total = fields.DecimalField(max_digits=10, decimal_places=2)


class Ticket(Model):
    id = fields.UUIDField(primary_key=True)
    title = fields.CharField(max_length=50)


class Country(Model):
    code = fields.CharField(primary_key=True, max_length=10)


class Event(Model):
    number = fields.BigIntField(primary_key=True, source_field="event_number")
    title = fields.CharField(max_length=50, default="")


class Profile(Model):
    user: fields.OneToOneRelation[User] = fields.OneToOneField(
        "models.User", primary_key=True, related_name="profile"
    )
    bio = fields.TextField()


class Visible(Manager):
    def get_queryset(self) -> Any:
        return super().get_queryset().filter(is_hidden=False)


class Note(Model):
    text = fields.TextField()
    is_hidden = fields.BooleanField(default=False)

    class Meta:
        manager = Visible()


class Timestamped(Model):
    changed_at = fields.DatetimeField(auto_now=True)

    class Meta:
        abstract = True


class Page(Timestamped):
    title = fields.CharField(max_length=50)

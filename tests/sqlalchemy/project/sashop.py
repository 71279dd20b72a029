"""Models of a shop, one for each kind of key and of mapping."""

from __future__ import annotations

import enum
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import JSON, ForeignKey, Numeric, String, UniqueConstraint
from sqlalchemy.dialects.mysql import DATETIME
from sqlalchemy.ext.asyncio import AsyncAttrs
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    deferred,
    mapped_column,
    relationship,
)
from sqlalchemy.types import DateTime


class Base(AsyncAttrs, DeclarativeBase):
    """Of all models but `Point`."""


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    settings: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    flags: Mapped[dict[str, Any]] = mapped_column(MutableDict.as_mutable(JSON), default=dict)
    bio: Mapped[str] = deferred(mapped_column(String(200), default="a bio"))
    orders: Mapped[list[Order]] = relationship(back_populates="user", order_by="Order.id")
    big_orders: Mapped[list[Order]] = relationship(
        primaryjoin="and_(User.id == Order.user_id, Order.total > 100)", viewonly=True
    )


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    total: Mapped[int] = mapped_column(default=0)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    user: Mapped[User] = relationship(back_populates="orders")


class Item(Base):
    """No relationship, no deferred column: nothing that could be loaded later."""

    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))


class Account(Base):
    __tablename__ = "accounts"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    owner: Mapped[str] = mapped_column(String(50), default="")


class Country(Base):
    __tablename__ = "countries"
    code: Mapped[str] = mapped_column("iso_3166", String(2), primary_key=True)
    title: Mapped[str] = mapped_column("name", String(50))


class Price(Base):
    __tablename__ = "prices"
    amount: Mapped[Decimal] = mapped_column(Numeric(10, 2), primary_key=True, autoincrement=False)


class Reading(Base):
    __tablename__ = "readings"
    taken: Mapped[datetime] = mapped_column(
        DateTime().with_variant(DATETIME(fsp=6), "mysql", "mariadb"), primary_key=True
    )


class Membership(Base):
    """The order of the key's columns is not that of the alphabet, and names differ."""

    __tablename__ = "memberships"
    __table_args__ = (UniqueConstraint("number"),)
    organisation: Mapped[str] = mapped_column("org", String(20), primary_key=True)
    number: Mapped[int] = mapped_column("member_no", primary_key=True, key="number")
    role: Mapped[str] = mapped_column(String(20), default="member")


class Color(enum.Enum):
    RED = "#f00"
    BLUE = "#00f"


class Paint(Base):
    __tablename__ = "paints"
    color: Mapped[Color] = mapped_column(primary_key=True)


class Animal(Base):
    __tablename__ = "animals"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}


class Dog(Animal):
    """Joined to its parent's table."""

    __tablename__ = "dogs"
    id: Mapped[int] = mapped_column(ForeignKey("animals.id"), primary_key=True)
    tricks: Mapped[str] = mapped_column(String(50), default="")
    __mapper_args__ = {"polymorphic_identity": "dog"}


class Cat(Animal):
    """In its parent's table."""

    __mapper_args__ = {"polymorphic_identity": "cat"}


class Stamped(Base):
    __abstract__ = True
    id: Mapped[int] = mapped_column(primary_key=True)


class Letter(Stamped):
    __tablename__ = "letters"


class DataBase(MappedAsDataclass, DeclarativeBase):
    """A base of its own, of dataclasses."""


class Point(DataBase):
    __tablename__ = "points"
    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    x: Mapped[int] = mapped_column(default=0)

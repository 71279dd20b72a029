"""The shop's rows."""

from __future__ import annotations

import os

from asynctasq_sqlalchemy import tables
from sqlalchemy import ForeignKey
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    """Every model inherits the session factory that is set on this class below."""


class Customer(Base):
    """Somebody who orders."""

    __tablename__ = "customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]


class Order(Base):
    """What somebody ordered.

    Attributes:
        receipts: How many receipts were sent; never more than one.
    """

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"))
    customer: Mapped[Customer] = relationship()
    amount: Mapped[int]
    is_paid: Mapped[bool] = mapped_column(default=False)
    receipts: Mapped[int] = mapped_column(default=0)


class Statistics(Base):
    """What was sold, counted now and then."""

    __tablename__ = "statistics"
    id: Mapped[int] = mapped_column(primary_key=True)
    orders: Mapped[int]
    amount: Mapped[int]


tables(Base.metadata)  # those of the outbox and of atomic tasks
engine = create_async_engine(os.environ.get("SHOP_DATABASE", "sqlite+aiosqlite:///shop.db"))
Session = async_sessionmaker(engine, expire_on_commit=False)
Base._asynctasq_session_factory = Session  # type: ignore[attr-defined]


async def create_tables() -> None:
    """Create what is missing; an application with migrations leaves that to them."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)

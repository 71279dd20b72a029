"""What examples of models assume: two users and two orders in a SQLite file, with SQLAlchemy."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.ext.asyncio import AsyncAttrs, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(AsyncAttrs, DeclarativeBase):
    """Where the session factory is set."""


class User(Base):
    """Somebody."""

    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    email: Mapped[str] = mapped_column(default="")
    orders: Mapped[list[Order]] = relationship(back_populates="user")


class Order(Base):
    """Of a user."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    is_paid: Mapped[bool] = mapped_column(default=False)
    user: Mapped[User] = relationship(back_populates="orders")


engine = create_async_engine("sqlite+aiosqlite:///shop.db")
SessionFactory = async_sessionmaker(engine, expire_on_commit=False)
Base._asynctasq_session_factory = SessionFactory


async def setup() -> None:
    """Make tables and rows."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with SessionFactory() as session:
        ada = User(name="Ada", email="ada@example.com", orders=[Order(), Order()])
        session.add_all([ada, User(name="Grace", email="grace@example.com")])
        await session.commit()


async def teardown() -> None:
    """Close the connections."""
    await engine.dispose()

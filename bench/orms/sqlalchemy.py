"""SQLAlchemy on asyncpg."""

from __future__ import annotations

from typing import Any

import asynctasq
from asynctasq_sqlalchemy import tables
from sqlalchemy import String, event, select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from bench.orms import meter

DISTRIBUTIONS = ("asynctasq-sqlalchemy", "sqlalchemy", "asyncpg")
queries = 0


class Base(DeclarativeBase): ...


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    name: Mapped[str]


class Outgoing(Base):
    """What a hand-written outbox keeps."""

    __tablename__ = "outgoing_by_hand"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    body: Mapped[bytes]


class Done(Base):
    """What a hand-written worker notes."""

    __tablename__ = "done_by_hand"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)


tables(Base.metadata)


@asynctasq.task(atomic=True)
async def change(user: User) -> None:
    user.name += "!"
    meter.tick()


@asynctasq.task
async def one(user: User) -> None:
    assert user.email
    meter.tick()


@asynctasq.task
async def many(users: list[User]) -> None:
    meter.tick()


async def connect(url: str) -> None:
    """Configure the ORM."""
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))
    event.listen(engine.sync_engine, "before_cursor_execute", _count)
    Base._asynctasq_session_factory = async_sessionmaker(engine, expire_on_commit=False)


async def make_rows(n: int) -> list[Any]:
    """Make the table and `n` rows."""
    async with Base._asynctasq_session_factory() as session:
        await session.run_sync(lambda s: Base.metadata.create_all(s.connection()))
        users = [User(email=f"user{i}@example.com", name=f"User {i}") for i in range(n)]
        session.add_all(users)
        await session.commit()
    return users


def _count(*_: object) -> None:
    global queries
    queries += 1


async def fetch(keys: list[int]) -> list[User]:
    """The rows of these keys, in order."""
    async with Base._asynctasq_session_factory() as session:
        found = await session.scalars(select(User).where(User.id.in_(keys)))
        by_key = {user.id: user for user in found}
    return [by_key[key] for key in keys]


async def get(key: int) -> User:
    """One row, in a session of its own."""
    async with Base._asynctasq_session_factory() as session:
        return await session.get_one(User, key)


async def close() -> None:
    """Close the connections."""
    await Base._asynctasq_session_factory.kw["bind"].dispose()

"""SQLAlchemy on asyncpg."""

from __future__ import annotations

from typing import Any

import asynctasq
from sqlalchemy import event, select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

DISTRIBUTIONS = ("asynctasq-sqlalchemy", "sqlalchemy", "asyncpg")
queries = 0


class Base(DeclarativeBase): ...


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    name: Mapped[str]


@asynctasq.task
async def one(user: User) -> None:
    assert user.email


@asynctasq.task(result_ttl=60)
async def many(users: list[User]) -> int:
    return len(users)


async def open_rows(url: str, n: int) -> list[Any]:
    """Make `n` rows and return them."""
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))
    event.listen(engine.sync_engine, "before_cursor_execute", _count)
    Base._asynctasq_session_factory = async_sessionmaker(engine, expire_on_commit=False)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with Base._asynctasq_session_factory() as session:
        users = [User(email=f"user{i}@example.com", name=f"User {i}") for i in range(n)]
        session.add_all(users)
        await session.commit()
    return users


def _count(*_: object) -> None:
    global queries
    queries += 1


async def by_hand(keys: list[int]) -> None:
    """What a careful programmer writes to fetch these rows."""
    async with Base._asynctasq_session_factory() as session:
        found = await session.scalars(select(User).where(User.id.in_(keys)))
        by_key = {user.id: user for user in found}
    assert len([by_key[key] for key in keys]) == len(keys)


async def close() -> None:
    """Close the connections."""
    await Base._asynctasq_session_factory.kw["bind"].dispose()

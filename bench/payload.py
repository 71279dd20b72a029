"""Bytes on the queue for model instances, against the whole rows in msgpack.

hatch run bench:payload
"""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import asynctasq
import msgpack
from sqlalchemy import create_engine, inspect
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.pool import StaticPool

from bench import report


class Base(DeclarativeBase): ...


class Customer(Base):
    __tablename__ = "customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    public_id: Mapped[UUID]
    email: Mapped[str]
    name: Mapped[str]
    street: Mapped[str]
    city: Mapped[str]
    postcode: Mapped[str]
    country: Mapped[str]
    phone: Mapped[str]
    born_on: Mapped[date]
    credit: Mapped[Decimal]
    is_active: Mapped[bool]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    notes: Mapped[str]


_messages: list[asynctasq.Message] = []


@asynctasq.task
async def welcome(customer: Customer | None) -> None:
    _messages.append(asynctasq.current_message())


@asynctasq.task
async def newsletter(customers: list[Customer]) -> None:
    _messages.append(asynctasq.current_message())


def _customer(i: int) -> Customer:
    return Customer(
        public_id=UUID(int=i),
        email=f"customer{i}@example.com",
        name=f"Jane Q. Customer the {i}th",
        street=f"{i} Long Meadow Lane",
        city="Stratford-upon-Avon",
        postcode="CV37 6BA",
        country="United Kingdom",
        phone="+44 1632 960 961",
        born_on=date(1984, 5, 17),
        credit=Decimal("1024.50"),
        is_active=True,
        created_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        updated_at=datetime(2026, 11, 2, 3, 4, 5, tzinfo=UTC),
        notes="Prefers to be called in the afternoon; has ordered twice, returned nothing. " * 6,
    )


def _row_bytes(row: Any) -> int:
    """The row as a map of its columns; what msgpack has no form for counts as text."""
    columns = {c.key: getattr(row, c.key) for c in inspect(type(row)).column_attrs}
    return len(msgpack.packb(columns, default=str))


async def _sent(*calls: asynctasq.Call[None]) -> list[asynctasq.Message]:
    """The messages of these calls, as a worker's tasks got them."""
    for call in calls:
        await call.dispatch()
        await asynctasq.Worker(burst=True).run()
    return _messages


def _line(
    title: str, rows: list[Customer], message: asynctasq.Message, empty: asynctasq.Message
) -> str:
    full, sent = sum(map(_row_bytes, rows)), len(message.payload)
    reference = (sent - len(empty.payload)) // len(rows)
    return (
        f"| {title} | {full:,} | {sent:,} | {1 - sent / full:.1%} | {reference} | "
        f"{len(message.encode()):,} |"
    )


def main() -> None:
    """Print the table."""
    asynctasq.init(driver="memory")
    connect_args = {"check_same_thread": False}
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args=connect_args)
    Base.metadata.create_all(engine)
    Base._asynctasq_session_factory = sessionmaker(engine)
    with Session(engine, expire_on_commit=False) as session:
        rows = [_customer(i) for i in range(1, 101)]
        session.add_all(rows)
        session.commit()
    print("| | whole rows | arguments as sent | saved | one reference | whole message |")
    print("|---|---:|---:|---:|---:|---:|")
    one, no_one, all_of_them, none_of_them = asyncio.run(
        _sent(
            *(welcome(customer=rows[0]), welcome(customer=None)),
            *(newsletter(customers=rows), newsletter(customers=[])),
        )
    )
    print(_line("one instance", rows[:1], one, no_one))
    print(_line("100 instances", rows, all_of_them, none_of_them))
    model = f"a row of {len(inspect(Customer).columns)} columns, class path {Customer.__module__}"
    print(f"\nBytes; {model}.Customer.")
    print(report.circumstances("asynctasq-core", "msgpack"))


if __name__ == "__main__":
    main()

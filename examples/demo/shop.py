"""The application of the demo: its models and its tasks. The worker imports this module."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from asynctasq import current_message, progress, task, task_session
from asynctasq_sqlalchemy import tables
from sqlalchemy import ForeignKey, event
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Every model inherits the session factory that is set on this class below."""


class Order(Base):
    """A row of the size that rows have: some names, an address, a few amounts, some text."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]
    email: Mapped[str]
    phone: Mapped[str]
    street: Mapped[str]
    city: Mapped[str]
    postcode: Mapped[str]
    country: Mapped[str]
    currency: Mapped[str]
    total: Mapped[Decimal]
    status: Mapped[str]
    placed_at: Mapped[datetime]
    items: Mapped[str]
    note: Mapped[str]


class Payment(Base):
    """The ledger: a row for each time that an order was paid."""

    __tablename__ = "payments"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey(Order.id))
    amount: Mapped[Decimal]


tables(Base.metadata)  # where it is noted which calls of atomic tasks are done

engine = create_async_engine(f"sqlite+aiosqlite:///{os.environ['SHOP_DATABASE']}")
Session = async_sessionmaker(engine, expire_on_commit=False)
Base._asynctasq_session_factory = Session  # type: ignore[attr-defined]

selects = 0
packed = 0
looks = 0


@event.listens_for(engine.sync_engine, "before_cursor_execute")
def count_selects(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
    """Count what this process asks of the database."""
    global selects
    selects += statement.startswith("SELECT")


@task(result_ttl=60)
async def send_receipt(order: Order) -> str:
    """Succeed, and say where to."""
    return order.email


@task(result_ttl=60, retry_delay=0.3, retry_jitter=False)
async def charge(order: Order) -> int:
    """Fail once, then succeed; the result is the attempt that did."""
    attempt = current_message().attempt
    if attempt == 1:
        raise ConnectionError("the payment provider hung up")
    return attempt


@task(max_attempts=2, retry_delay=0.2)
async def print_label(order: Order) -> None:
    """Fail every time."""
    raise RuntimeError(f"the printer in {order.city} is out of paper")


@task(atomic=True, result_ttl=60)
async def pay(order: Order) -> str:
    """Pay, and kill the worker in the worst moment: it has committed, and nobody was told."""
    session = task_session()
    order.status = "paid in full"
    session.add(Payment(order_id=order.id, amount=order.total))

    @event.listens_for(session.sync_session, "after_commit", once=True)
    def die(_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    return f"paid by worker {os.getpid()}"


@task
async def ship(order: Order) -> None:
    """Never run by the demo: the row is deleted first."""


@task
async def pack(order: Order) -> None:
    """One of many."""
    global packed
    packed += 1


@task
async def add_up(orders: int) -> str:
    """Take a while, and say how far it is."""
    for done in range(0, orders, orders // 10):
        await progress(done, orders, "adding up")
        await asyncio.sleep(0.06)
    await progress(orders, orders)
    return f"{orders} orders, {1843 * orders} GBP"


@task(result_ttl=60)
async def write_report(sums: str) -> str:
    """Follow; it gets what the call before returned."""
    return f"report: {sums}"


@task(every=timedelta(seconds=1))
async def look_for_mail() -> None:
    """Run by the clock, while there is a worker."""
    global looks
    looks += 1


@task(result_ttl=60)
async def figures() -> tuple[int, int, int]:
    """How often this worker packed an order, asked the database and looked for mail."""
    return packed, selects, looks

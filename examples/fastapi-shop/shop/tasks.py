"""What the shop does in the background."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from asynctasq import Limit, Unique, init, progress, task
from sqlalchemy import func, select
from sqlalchemy.orm import selectinload

from .models import Order, Session, Statistics

# The driver and its address come from ASYNCTASQ_... variables; without, a file beside the program.
init(outbox=True)


class CardRefused(Exception):
    """The customer's bank does not pay."""


@task(queue="payments", atomic=True, limit=Limit(1, by="customer_id"), max_attempts=3)
async def charge(order: Order, customer_id: int) -> None:
    """Take the money and have a receipt sent, both or neither; one order of a customer a time."""
    if order.amount > 1000:
        raise CardRefused(f"{order.amount} is more than the bank pays")
    order.is_paid = True
    await send_receipt(order).dispatch()


@task(queue="mail", atomic=True)
async def send_receipt(order: Annotated[Order, selectinload(Order.customer)]) -> None:
    """Send the receipt; here, count it."""
    order.receipts += 1


@task(unique=Unique(until="started"))
async def count_sales() -> None:
    """Count what was sold; asked for ten times in a row, it is done once."""
    async with Session.begin() as session:
        query = select(func.count(), func.coalesce(func.sum(Order.amount), 0))
        count, amount = (await session.execute(query.where(Order.is_paid))).one()
        await session.merge(Statistics(id=1, orders=count, amount=amount))


@task(queue="reports")
async def add_up_orders() -> dict[str, int]:
    """Add up what each customer has paid, and say how far it is."""
    sums: dict[str, int] = {}
    async with Session() as session:
        total = await session.scalar(select(func.count()).select_from(Order))
        orders = await session.scalars(select(Order).options(selectinload(Order.customer)))
        for done, order in enumerate(orders):
            await progress(done, total, "adding up")
            email, amount = order.customer.email, order.amount if order.is_paid else 0
            sums[email] = sums.get(email, 0) + amount
    return sums


@task(queue="reports", result_ttl=86_400)
async def write_report(sums: dict[str, int]) -> str:
    """Write the report; called with what `add_up_orders` returns."""
    return "".join(f"{email};{amount}\n" for email, amount in sorted(sums.items()))


@task(cron="0 3 * * *", timezone="Europe/Berlin")
async def report_every_night() -> None:
    """At three, by the clock in Berlin."""
    await add_up_orders().then(write_report).dispatch()


@task(every=timedelta(minutes=5))
async def count_sales_now_and_then() -> None:
    """By the clock, whoever asks."""
    await count_sales().dispatch()

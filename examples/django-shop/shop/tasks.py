"""What the shop does in the background."""

from datetime import timedelta
from typing import Annotated

from asynctasq import Limit, Unique, progress_sync, task
from asynctasq_django import select_related
from django.db.models import Count, Sum

from .models import Order, Statistics


class CardRefused(Exception):
    """The customer's bank does not pay."""


@task(queue="payments", atomic=True, limit=Limit(1, by="customer_id"), max_attempts=3)
def charge(order: Order, customer_id: int) -> None:
    """Take the money and have a receipt sent, both or neither; one order of a customer a time."""
    if order.amount > 1000:
        raise CardRefused(f"{order.amount} is more than the bank pays")
    order.is_paid = True
    order.save()
    send_receipt(order).dispatch_sync()


@task(queue="mail", atomic=True)
def send_receipt(order: Annotated[Order, select_related("customer")]) -> None:
    """Send the receipt; here, count it."""
    order.receipts += 1
    order.save()


@task(unique=Unique(until="started"))
def count_sales() -> None:
    """Count what was sold; asked for ten times in a row, it is done once."""
    paid = Order.objects.filter(is_paid=True).aggregate(count=Count("pk"), sum=Sum("amount"))
    defaults = {"orders": paid["count"], "amount": paid["sum"] or 0}
    Statistics.objects.update_or_create(pk=1, defaults=defaults)


@task(queue="reports")
def add_up_orders() -> dict[str, int]:
    """Add up what each customer has paid, and say how far it is."""
    sums: dict[str, int] = {}
    orders = Order.objects.select_related("customer")
    total = orders.count()
    for done, order in enumerate(orders.iterator()):
        progress_sync(done, total, "adding up")
        email, amount = order.customer.email, order.amount if order.is_paid else 0
        sums[email] = sums.get(email, 0) + amount
    return sums


@task(queue="reports", result_ttl=86_400)
def write_report(sums: dict[str, int]) -> str:
    """Write the report; called with what `add_up_orders` returns."""
    return "".join(f"{email};{amount}\n" for email, amount in sorted(sums.items()))


@task(cron="0 3 * * *", timezone="Europe/Berlin")
def report_every_night() -> None:
    """At three, by the clock in Berlin."""
    add_up_orders().then(write_report).dispatch_sync()


@task(every=timedelta(minutes=5))
def count_sales_now_and_then() -> None:
    """By the clock, whoever asks."""
    count_sales().dispatch_sync()

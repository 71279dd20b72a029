"""What the shop does in the background."""

from datetime import timedelta
from typing import Annotated

from asynctasq import Limit, Unique, task
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


@task(every=timedelta(minutes=5))
def count_sales_now_and_then() -> None:
    """By the clock, whoever asks."""
    count_sales().dispatch_sync()

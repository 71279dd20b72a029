"""The shop's rows."""

from django.db import models


class Customer(models.Model):
    """Somebody who orders."""

    email = models.EmailField(unique=True)

    def __str__(self) -> str:
        return self.email


class Order(models.Model):
    """What somebody ordered; `receipts` counts those that were sent, never more than one."""

    customer = models.ForeignKey(Customer, models.CASCADE)
    amount = models.PositiveIntegerField()
    is_paid = models.BooleanField(default=False)
    receipts = models.PositiveIntegerField(default=0)

    def __str__(self) -> str:
        return f"order {self.pk}"


class Statistics(models.Model):
    """What was sold, counted now and then."""

    orders = models.PositiveIntegerField()
    amount = models.PositiveIntegerField()

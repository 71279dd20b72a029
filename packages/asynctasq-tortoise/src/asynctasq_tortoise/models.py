"""The tables that asynctasq keeps in the application's databases, as Tortoise's models.

List this module in `modules`, or in an app of the configuration, to have Tortoise create them. Core
owns their columns and every statement on them; no code uses these models.
"""

from __future__ import annotations

from tortoise import fields
from tortoise.models import Model


class Outbox(Model):
    """Calls that a transaction has dispatched and that the broker does not have yet."""

    id = fields.CharField(max_length=64, primary_key=True)
    queue = fields.CharField(max_length=200)
    body = fields.BinaryField()
    due = fields.FloatField(null=True)
    priority = fields.SmallIntField()
    policy = fields.BinaryField(null=True)

    class Meta:
        table = "asynctasq_outbox"


class Done(Model):
    """Calls of atomic tasks that are done."""

    id = fields.CharField(max_length=64, primary_key=True)
    result = fields.BinaryField(null=True)
    done_at = fields.FloatField(db_index=True)

    class Meta:
        table = "asynctasq_done"

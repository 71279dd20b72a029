"""The tables that asynctasq keeps in the application's databases, for Django's migrations.

Core owns their columns and every statement on them; no code uses these models.
"""

from __future__ import annotations

from typing import Any

from django.db import models


class Outbox(models.Model):
    """Calls that a transaction has dispatched and that the broker does not have yet."""

    id: models.CharField[Any, Any] = models.CharField(primary_key=True, max_length=64)
    queue: models.CharField[Any, Any] = models.CharField(max_length=200)
    body: models.BinaryField[Any, Any] = models.BinaryField()
    due: models.FloatField[Any, Any] = models.FloatField(null=True)
    priority: models.SmallIntegerField[Any, Any] = models.SmallIntegerField()
    policy: models.BinaryField[Any, Any] = models.BinaryField(null=True)

    class Meta:
        db_table = "asynctasq_outbox"


class Done(models.Model):
    """Calls of atomic tasks that are done."""

    id: models.CharField[Any, Any] = models.CharField(primary_key=True, max_length=64)
    result: models.BinaryField[Any, Any] = models.BinaryField(null=True)
    done_at: models.FloatField[Any, Any] = models.FloatField()

    class Meta:
        db_table = "asynctasq_done"
        indexes = (models.Index(fields=["done_at"], name="asynctasq_done_done_at"),)


class DeadCall(models.Model):
    """Stands for dead letters in Django's admin and its permissions; has no table."""

    id: models.CharField[Any, Any] = models.CharField(primary_key=True, max_length=64)

    class Meta:
        managed = False
        default_permissions = ("view", "change", "delete")
        verbose_name = "dead letter"


class Queue(models.Model):
    """Stands for queues, schedules and workers in Django's admin; has no table."""

    id: models.CharField[Any, Any] = models.CharField(primary_key=True, max_length=64)

    class Meta:
        managed = False
        default_permissions = ("view", "change", "delete")

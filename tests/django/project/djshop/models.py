"""Models of every kind that a reference has to get right."""

from __future__ import annotations

import uuid
from typing import Any, ClassVar

import django
from django.db import models


class User(models.Model):
    email: models.CharField[Any, Any] = models.CharField(max_length=100)
    name: models.CharField[Any, Any] = models.CharField(max_length=100, default="")
    notes: models.JSONField[Any, Any] = models.JSONField(default=dict)
    friends: models.ManyToManyField[Any, Any] = models.ManyToManyField("self")


class Admin(User):
    """A proxy: the same table under another class."""

    class Meta:
        proxy = True


class Employee(User):
    """A child with a table of its own, whose key is its parent's."""

    salary: models.IntegerField[Any, Any] = models.IntegerField(default=0)


class Named(models.Model):
    title: models.CharField[Any, Any] = models.CharField(max_length=100)

    class Meta:
        abstract = True


class Order(Named):
    user: models.ForeignKey[Any, Any] = models.ForeignKey(
        User, on_delete=models.CASCADE, related_name="orders"
    )


class Session(models.Model):
    """Its key is set long before it is saved."""

    id: models.UUIDField[Any, Any] = models.UUIDField(primary_key=True, default=uuid.uuid4)


class Country(models.Model):
    code: models.CharField[Any, Any] = models.CharField(max_length=2, primary_key=True)


class NotDeleted(models.Manager[Any]):
    def get_queryset(self) -> models.QuerySet[Any]:
        return super().get_queryset().filter(deleted=False)


class Document(models.Model):
    """Its only manager hides what was deleted softly."""

    deleted: models.BooleanField[Any, Any] = models.BooleanField(default=False)
    objects: ClassVar[models.Manager[Any]] = NotDeleted()


MODELS: list[type[models.Model]] = [User, Employee, Order, Session, Country, Document]

if django.VERSION >= (5, 2):

    class Seat(models.Model):
        pk = models.CompositePrimaryKey("row", "number")
        row: models.CharField[Any, Any] = models.CharField(max_length=5)
        number: models.IntegerField[Any, Any] = models.IntegerField()
        taken: models.BooleanField[Any, Any] = models.BooleanField(default=False)

    MODELS.append(Seat)

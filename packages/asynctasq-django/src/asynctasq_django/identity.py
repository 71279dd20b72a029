"""From an instance to its reference, by Django's own record of what is saved and where."""

from __future__ import annotations

import datetime
import decimal
import uuid
from typing import Any

from asynctasq import DeletedModelError, Ref, SerializationError, UnsavedModelError, class_path
from django.core.exceptions import SynchronousOnlyOperation
from django.db import DEFAULT_DB_ALIAS, models
from django.utils.functional import LazyObject, empty

_WIRE_TYPES = frozenset(
    {
        int,
        str,
        bytes,
        uuid.UUID,
        decimal.Decimal,
        datetime.datetime,
        datetime.date,
        datetime.time,
        datetime.timedelta,
    }
)


def instance_of(obj: object) -> models.Model:
    """The instance itself, taken out of the lazy object that `request.user` is.

    Raises:
        SerializationError: The lazy object holds something else, such as an anonymous user, or
            cannot be evaluated on an event loop.
    """
    if isinstance(obj, LazyObject):
        try:
            if obj._wrapped is empty:
                obj._setup()
        except SynchronousOnlyOperation:
            raise SerializationError(
                "this lazy object cannot be evaluated in async code; pass the instance itself, "
                "such as `await request.auser()`"
            ) from None
        obj = obj._wrapped
    if not isinstance(obj, models.Model):
        raise SerializationError(
            f"{type(obj).__name__} in a lazy object is not a model instance with a row of its own"
        )
    return obj


def to_ref(obj: object) -> Ref:
    """The reference of a saved instance; runs no SQL."""
    instance = instance_of(obj)
    name = type(instance).__qualname__
    state = instance._state
    if state.adding:
        raise UnsavedModelError(
            f"this {name} has no row yet; save it before dispatching "
            f"(`{name.lower()}.save()` or `await {name.lower()}.asave()`)"
        )
    pk = instance.pk
    if pk is None or (isinstance(pk, tuple) and None in pk):
        raise DeletedModelError(
            f"the row of this {name} was deleted; dispatch its key, or what the task needs of it"
        )
    db = state.db if state.db != DEFAULT_DB_ALIAS else None
    return Ref(class_path(type(instance)), _wire_key(instance, pk), db)


def key_fields(model: type[models.Model]) -> tuple[models.Field[Any, Any], ...]:
    """The fields of the primary key; more than one only where it is composite."""
    pk = model._meta.pk
    return tuple(getattr(model._meta, "pk_fields", None) or (pk,))


def _wire_key(instance: models.Model, pk: Any) -> Any:
    if not isinstance(pk, tuple):
        return _wire_value(key_fields(type(instance))[0], pk)
    fields = key_fields(type(instance))
    return tuple(_wire_value(field, value) for field, value in zip(fields, pk, strict=True))


def _wire_value(field: models.Field[Any, Any], value: Any) -> Any:
    """A key as a plain value: without the subclass that choices, safe strings or fields make."""
    if type(value) in _WIRE_TYPES:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    return field.get_prep_value(value)

"""From an instance to its reference, using Django's own record of what is saved where."""

from __future__ import annotations

from functools import wraps
from typing import Any

from asynctasq import DeletedModelError, Ref, SerializationError, UnsavedModelError, class_path
from django.core.exceptions import SynchronousOnlyOperation
from django.db import DEFAULT_DB_ALIAS, models
from django.utils.functional import LazyObject, empty

from .keys import sent_key

#: Attribute with the key under which an instance last had a row, which Django does not remember.
_REFRESHED = "_asynctasq_refreshed"


def instance_of(obj: object) -> models.Model:
    """The instance itself, taken out of a lazy object such as `request.user`.

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
    """The reference of a saved instance; runs no SQL.

    Raises:
        UnsavedModelError: Django knows of no row for it.
        DeletedModelError: The row was deleted through the instance.
        SerializationError: The key cannot travel, or the model belongs to a migration.
    """
    instance = instance_of(obj)
    name = type(instance).__qualname__
    if type(instance).__module__ == "__fake__":
        raise SerializationError(
            f"this {name} is of a model that Django made up for a migration, which no worker has; "
            f"dispatch its key, or what the task needs of it"
        )
    state, pk = instance._state, instance.pk
    if state.adding and not _was_refreshed(instance, pk):
        raise UnsavedModelError(
            f"this {name} has no row yet; save it before dispatching "
            f"(`{name.lower()}.save()` or `await {name.lower()}.asave()`)"
        )
    if pk is None or (isinstance(pk, tuple) and None in pk):
        raise DeletedModelError(
            f"the row of this {name} was deleted; dispatch its key, or what the task needs of it"
        )
    alias = state.db or DEFAULT_DB_ALIAS
    db = alias if alias != DEFAULT_DB_ALIAS else None
    return Ref(class_path(type(instance)), sent_key(type(instance), pk, alias), db)


def watch_refreshes() -> None:
    """Remember the instances built by hand for which `refresh_from_db` has found a row.

    Django still calls these unsaved.
    """
    refresh = models.Model.refresh_from_db
    if hasattr(refresh, _REFRESHED):
        return

    @wraps(refresh)
    def refresh_from_db(self: models.Model, *args: Any, **kwargs: Any) -> None:
        refresh(self, *args, **kwargs)
        if self._state.adding:
            vars(self)[_REFRESHED] = self.pk

    setattr(refresh_from_db, _REFRESHED, True)
    models.Model.refresh_from_db = refresh_from_db  # type: ignore[method-assign]


def _was_refreshed(instance: models.Model, pk: Any) -> bool:
    """Whether it was refreshed under this key; a copy given another key has no row."""
    return pk is not None and vars(instance).get(_REFRESHED) == pk

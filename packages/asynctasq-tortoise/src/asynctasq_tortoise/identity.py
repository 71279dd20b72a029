"""Finds out which row an instance stands for: class, key, database, and whether it exists."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from asynctasq import DeletedModelError, Ref, SerializationError, UnsavedModelError, class_path

from .keys import key_to_send

_INSERTED = "_asynctasq_inserted"
_DELETED = "_asynctasq_deleted"
_DATABASE = "_asynctasq_database"


def to_ref(obj: Any) -> Ref:
    """The reference, from the instance's own state.

    Raises:
        UnsavedModelError: Not inserted yet, or loaded without its key.
        DeletedModelError: Deleted through this instance.
        SerializationError: The key cannot travel, or the model belongs to a migration.
    """
    pk = getattr(obj, "pk", None)
    model = type(obj)
    if "_no_comments" in vars(model):  # Tortoise marks models of migrations with it
        raise SerializationError(
            f"this {model.__name__} is of a model that Tortoise made up for a migration, which no "
            f"worker has; dispatch an instance of the application's own model"
        )
    if not (obj._saved_in_db or _was_inserted(obj, pk)):
        raise UnsavedModelError(f"this {model.__name__} has no row yet: save it before dispatching")
    if _DELETED in vars(obj):
        raise DeletedModelError(f"the row of this {model.__name__} was deleted")
    if pk is None:
        raise UnsavedModelError(
            f"this {model.__name__} was loaded without its key: add it to only()"
        )
    return Ref(class_path(model), key_to_send(model, pk), db=vars(obj).get(_DATABASE))


def remember_insert(instance: Any) -> None:
    """Note an insert by `bulk_create`, after which Tortoise still calls the instance unsaved."""
    object.__setattr__(instance, _INSERTED, instance.pk)


def forget_insert(instance: Any) -> None:
    """Forget such an insert, which was rolled back."""
    vars(instance).pop(_INSERTED, None)


def _was_inserted(instance: Any, pk: Any) -> bool:
    """Whether it was inserted under this key; a clone of it has another key."""
    return pk is not None and vars(instance).get(_INSERTED) == pk


def remember_deletion(instance: Any) -> None:
    """Note that its row was deleted; Tortoise still calls the instance saved."""
    object.__setattr__(instance, _DELETED, True)


def forget_deletion(instance: Any) -> None:
    """Forget the deletion: it was inserted again, or the deletion was rolled back."""
    vars(instance).pop(_DELETED, None)


def forget_database(instance: Any) -> None:
    """Forget where it was read: it has been written, which counts for more."""
    vars(instance).pop(_DATABASE, None)


def remember_database(instances: Iterable[Any], model: Any, db: Any) -> None:
    """Remember the database of rows that came from one the model is not routed to.

    A row that the router read from a replica does not count: the worker reads it from the database
    that it is written to.
    """
    alias = db.connection_name
    if alias == model._meta.default_connection or alias in _routed(model):
        return
    for instance in instances:
        object.__setattr__(instance, _DATABASE, alias)


def _routed(model: Any) -> set[str | None]:
    from tortoise.router import router

    if not router._routers:
        return set()
    found = (router.db_for_read(model), router.db_for_write(model))
    return {connection.connection_name for connection in found if connection is not None}

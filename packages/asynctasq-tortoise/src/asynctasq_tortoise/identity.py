"""Which row an instance stands for: class, key, database, and whether it exists."""

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
        SerializationError: The key cannot travel, or the model is one of a migration.
    """
    pk = getattr(obj, "pk", None)
    model = type(obj)
    if "_no_comments" in vars(model):  # what Tortoise marks them with
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
    """Inserted by `bulk_create`, after which Tortoise goes on calling it unsaved."""
    object.__setattr__(instance, _INSERTED, instance.pk)


def forget_insert(instance: Any) -> None:
    """That was rolled back."""
    vars(instance).pop(_INSERTED, None)


def _was_inserted(instance: Any, pk: Any) -> bool:
    """Whether it was under this key; a clone of it has another one."""
    return pk is not None and vars(instance).get(_INSERTED) == pk


def remember_deletion(instance: Any) -> None:
    """Its row was deleted; Tortoise goes on calling it saved."""
    object.__setattr__(instance, _DELETED, True)


def forget_deletion(instance: Any) -> None:
    """It has a row again: inserted anew, or the deletion was rolled back."""
    vars(instance).pop(_DELETED, None)


def forget_database(instance: Any) -> None:
    """It was written, which counts for more than where it was read."""
    vars(instance).pop(_DATABASE, None)


def remember_database(instances: Iterable[Any], model: Any, db: Any) -> None:
    """Keep the database of rows that came from another one than the model is routed to.

    A row that a router sent to a replica is one of the model's own: the worker reads it from where
    it is written.
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

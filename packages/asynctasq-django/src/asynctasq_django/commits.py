"""Sends when a transaction has committed; drops when it, or a savepoint, is rolled back."""

from __future__ import annotations

from asynctasq import DeferredSend
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.connection import ConnectionProxy
from django.utils.functional import LazyObject

from .connections import has_written, open_connection
from .identity import instance_of
from .waiting_dispatches import OnCommit


def is_pending_write(obj: object) -> bool:
    """Whether a transaction open here on the instance's database has written."""
    connection = open_connection(_alias_of(obj))
    return connection is not None and has_written(connection)


def after_commit(obj: object, send: DeferredSend) -> None:
    """Send after the open transaction of the instance, alias or connection commits.

    Raises:
        TransactionManagementError: The transaction was begun by switching autocommit off, so Django
            cannot tell when it commits.
    """
    connection: BaseDatabaseWrapper | None
    if isinstance(obj, BaseDatabaseWrapper):
        connection = obj
    else:
        connection = open_connection(_alias_of(obj))
    if connection is None:
        send()
    else:
        connection.on_commit(OnCommit(send, connection))


def owns_transaction(target: object) -> bool:
    """Whether this is one of Django's connections, or the alias of a database in the settings."""
    if isinstance(target, str):
        return bool(settings.configured) and target in connections.settings
    return isinstance(target, (BaseDatabaseWrapper, ConnectionProxy))


def _alias_of(obj: object) -> str:
    if isinstance(obj, str):
        return obj
    if isinstance(obj, (models.Model, LazyObject)):
        return instance_of(obj)._state.db or DEFAULT_DB_ALIAS
    alias: str = getattr(obj, "alias", DEFAULT_DB_ALIAS)
    return alias

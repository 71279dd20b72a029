"""Sending when a transaction has committed, dropping when it or a savepoint is rolled back."""

from __future__ import annotations

from contextlib import suppress
from weakref import ref

from asynctasq import DeferredSend
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.connection import ConnectionProxy
from django.utils.functional import LazyObject

from .connections import has_written, open_connection
from .identity import instance_of


class _OnCommit:
    """A callback of Django's that drops the dispatch when Django forgets it without calling it.

    Django has no hook for a rollback. It takes the callbacks of what was rolled back, and of a
    connection that broke, off its list; nothing else holds them. It calls no more of them after one
    that failed: so one whose send fails sends what the later ones would have, and then raises.
    """

    def __init__(self, send: DeferredSend, connection: BaseDatabaseWrapper) -> None:
        self._send: DeferredSend | None = send
        registered = (callback for _, callback, *_ in reversed(connection.run_on_commit))
        before = next((c for c in registered if isinstance(c, _OnCommit)), None)
        self._all: list[ref[_OnCommit]] = before._all if before else []
        self._place = len(self._all)
        self._all.append(ref(self))

    def __call__(self) -> None:
        try:
            self._use()
        except Exception:
            for later in self._all[self._place + 1 :]:
                if (callback := later()) is not None:
                    with suppress(Exception):  # the first error is the one to raise
                        callback._use()
            raise

    def _use(self) -> None:
        send, self._send = self._send, None
        if send is not None:
            send()

    def __del__(self) -> None:
        if self._send is not None:
            self._send.drop()


def is_pending_write(obj: object) -> bool:
    """Whether the instance's database has a transaction open here that has written."""
    connection = open_connection(_alias_of(obj))
    return connection is not None and has_written(connection)


def after_commit(obj: object, send: DeferredSend) -> None:
    """Send after the commit of the instance's, alias's or connection's open transaction.

    Raises:
        TransactionManagementError: The transaction was begun by switching autocommit off; Django
            cannot tell when it is committed.
    """
    connection: BaseDatabaseWrapper | None
    if isinstance(obj, BaseDatabaseWrapper):
        connection = obj
    else:
        connection = open_connection(_alias_of(obj))
    if connection is None:
        send()
    else:
        connection.on_commit(_OnCommit(send, connection))


def owns_transaction(target: object) -> bool:
    """Whether this is a connection of Django's, or the alias of a database in the settings."""
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

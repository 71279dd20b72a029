"""The hooks of asynctasq for Django; nothing here imports Django before the application has.

Hooks that are asked about objects first check whether Django's models are loaded: until then, no
object can be Django's.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING, Any

from asynctasq import (
    Database,
    DeferredSend,
    Finding,
    Message,
    Ref,
    Run,
    Transaction,
    hookimpl,
)

if TYPE_CHECKING:
    from .scopes import TaskScope


def _is_in_use() -> bool:
    """Whether models are loaded, so that there can be rows and connections."""
    registry = sys.modules.get("django.apps.registry")
    return registry is not None and registry.apps.models_ready


@hookimpl
def is_model(obj: object) -> bool:
    """Whether it is a model instance, or a lazy object such as `request.user`."""
    base = sys.modules.get("django.db.models.base")
    if not hasattr(base, "Model"):
        return False
    from .connections import watch_connections

    watch_connections()
    from django.db.models import Model
    from django.utils.functional import LazyObject

    return issubclass(type(obj), (Model, LazyObject))


@hookimpl
def to_ref(obj: object) -> Ref:
    """The reference, from `_state` and the primary key."""
    from .identity import to_ref

    return to_ref(obj)


@hookimpl
async def fetch_many(refs: Sequence[Ref]) -> Sequence[object | None]:
    """The rows, fetched with one query in a thread with Django's connections."""
    from .scopes import fetch_many

    return await fetch_many(refs)


@hookimpl
def is_outage(error: Exception) -> bool:
    """Decided by Django's own exception classes, to which it translates its drivers' errors."""
    if not _is_in_use():
        return False
    from .loading import gave_way

    return gave_way(error)


@hookimpl
def plain_form(obj: object) -> Callable[[Any], object] | None:
    """Converts safe strings, lazy texts and choices, once the modules defining them are loaded."""
    if "django.utils.functional" not in sys.modules:
        return None
    from .plain import plain_form

    return plain_form(obj)


@hookimpl
def configure() -> None:
    """Start watching transactions as early as possible."""
    if (settings := sys.modules.get("asynctasq_django.settings")) is not None:
        settings.note_init()
    if _is_in_use():
        from .connections import watch_connections

        watch_connections()


@hookimpl
def prepare() -> Iterable[str]:
    """Set up Django if `DJANGO_SETTINGS_MODULE` says how; returns its apps' `tasks` modules."""
    from .startup import prepare

    return prepare()


@hookimpl
def explain_import(error: Exception) -> str | None:
    """Explains Django's two errors about models imported before it was set up."""
    from .startup import explain_import

    return explain_import(error)


@hookimpl
def queue_names() -> Iterable[str]:
    """The `QUEUES` of asynctasq's backends in `settings.TASKS`."""
    if not _is_in_use():
        return ()
    from .task_settings import queue_names

    return queue_names()


@hookimpl
async def worker_stopped() -> None:
    """Close the connections that tasks left open for the next task."""
    if "asynctasq_django.lanes" in sys.modules:
        from .lanes import close_lanes

        await close_lanes()


@hookimpl
def task_scope() -> AbstractAsyncContextManager[object] | None:
    """Gives each task its own thread for ORM calls."""
    return _scope_class()() if _is_in_use() else None


@cache
def _scope_class() -> type[TaskScope]:
    """Looked up once instead of imported for each run."""
    from .scopes import TaskScope

    return TaskScope


@hookimpl
def thread_scope() -> AbstractContextManager[object] | None:
    """Checks the thread's connections before a `def` task, and releases them after it."""
    if not _is_in_use():
        return None
    from .scopes import thread_scope

    return thread_scope()


@hookimpl
def run_ended(
    message: Message, outcome: str, value: object, error: BaseException | None
) -> Awaitable[None] | None:
    """Sends the signal that one of Django's own tasks has finished."""
    ours = sys.modules.get("asynctasq_django.tasks_backend")
    ended: Awaitable[None] | None = None
    if ours is not None:
        ended = ours.run_ended(message, outcome, value, error)
    return ended


@hookimpl
def is_pending_write(obj: object) -> bool:
    """Whether the instance's database has an open transaction that has written."""
    from .commits import is_pending_write

    return is_pending_write(obj)


@hookimpl
def after_commit(obj: object, send: DeferredSend) -> None:
    """Send through `transaction.on_commit` of the connection."""
    from .commits import after_commit

    after_commit(obj, send)


@hookimpl
def owns_transaction(target: object) -> bool:
    """Whether it is a connection, or an alias in `settings.DATABASES`."""
    if not _is_in_use():
        return False
    from .commits import owns_transaction

    return owns_transaction(target)


@hookimpl
def open_transaction() -> object | None:
    """A connection in an atomic block, that of the default database first."""
    if not _is_in_use():
        return None
    from .connections import any_open_connection

    return any_open_connection()


@hookimpl
def databases() -> Iterable[Database]:
    """The databases in `settings.DATABASES`."""
    if not _is_in_use():
        return ()
    from .outbox import databases

    return databases()


@hookimpl
def own_transaction(database: Database) -> AbstractAsyncContextManager[Run]:
    """A transaction in a thread of its own."""
    from .outbox import own_transaction

    return own_transaction(database)


@hookimpl
def atomic_transaction(
    target: object, refs: Sequence[Ref]
) -> AbstractAsyncContextManager[Transaction]:
    """An atomic block around the task."""
    from .atomic import atomic_transaction

    return atomic_transaction(target, refs)


@hookimpl
async def check() -> Iterable[Finding]:
    """Reports unreachable databases, and settings that will hurt in production."""
    if not _is_in_use():
        return ()
    from .doctor import check

    return await check()


@hookimpl
def adapter_suite() -> str:
    """The suite, which runs on SQLite or on the databases of the settings."""
    return "asynctasq_django.suite:TestDjango"

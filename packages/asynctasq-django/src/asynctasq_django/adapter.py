"""The hooks of asynctasq for Django; nothing here imports Django before the application has.

Without an object of Django's there is nothing to do for it, so hooks that are asked about objects
look first whether Django's models are loaded at all.
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
    """An instance of a model, or the lazy object in which `request.user` comes."""
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
    """By `_state` and the primary key."""
    from .identity import to_ref

    return to_ref(obj)


@hookimpl
async def fetch_many(refs: Sequence[Ref]) -> Sequence[object | None]:
    """One query, in a thread of Django's own kind."""
    from .scopes import fetch_many

    return await fetch_many(refs)


@hookimpl
def is_outage(error: Exception) -> bool:
    """By Django's own classes, which its drivers' errors are translated to."""
    if not _is_in_use():
        return False
    from .loading import gave_way

    return gave_way(error)


@hookimpl
def plain_form(obj: object) -> Callable[[Any], object] | None:
    """Safe strings, lazy texts and choices, once what defines them is loaded."""
    if "django.utils.functional" not in sys.modules:
        return None
    from .plain import plain_form

    return plain_form(obj)


@hookimpl
def configure() -> None:
    """Begin to watch transactions as early as it can be."""
    if (settings := sys.modules.get("asynctasq_django.settings")) is not None:
        settings.note_init()
    if _is_in_use():
        from .connections import watch_connections

        watch_connections()


@hookimpl
def prepare() -> Iterable[str]:
    """Set up Django if `DJANGO_SETTINGS_MODULE` says how; the `tasks` modules of its apps."""
    from .startup import prepare

    return prepare()


@hookimpl
def explain_import(error: Exception) -> str | None:
    """Django's two errors about models that are imported before it was set up."""
    from .startup import explain_import

    return explain_import(error)


@hookimpl
def queue_names() -> Iterable[str]:
    """The `QUEUES` of `settings.TASKS`, where they are asynctasq's."""
    if not _is_in_use():
        return ()
    from .task_settings import queue_names

    return queue_names()


@hookimpl
async def worker_stopped() -> None:
    """Close the connections that tasks have left open for the next one."""
    if "asynctasq_django.lanes" in sys.modules:
        from .lanes import close_lanes

        await close_lanes()


@hookimpl
def task_scope() -> AbstractAsyncContextManager[object] | None:
    """A thread of its own for the ORM calls of each task."""
    return _scope_class()() if _is_in_use() else None


@cache
def _scope_class() -> type[TaskScope]:
    """Found once, and not imported for each run."""
    from .scopes import TaskScope

    return TaskScope


@hookimpl
def thread_scope() -> AbstractContextManager[object] | None:
    """Connections of the thread are checked before a `def` task and let go after it."""
    if not _is_in_use():
        return None
    from .scopes import thread_scope

    return thread_scope()


@hookimpl
def run_ended(
    message: Message, outcome: str, value: object, error: BaseException | None
) -> Awaitable[None] | None:
    """The signal that one of Django's own tasks has finished."""
    ours = sys.modules.get("asynctasq_django.tasks_backend")
    ended: Awaitable[None] | None = None
    if ours is not None:
        ended = ours.run_ended(message, outcome, value, error)
    return ended


@hookimpl
def is_pending_write(obj: object) -> bool:
    """Whether the instance's transaction is open and has written."""
    from .commits import is_pending_write

    return is_pending_write(obj)


@hookimpl
def after_commit(obj: object, send: DeferredSend) -> None:
    """By `transaction.on_commit` of the connection."""
    from .commits import after_commit

    after_commit(obj, send)


@hookimpl
def owns_transaction(target: object) -> bool:
    """A connection, or an alias of `settings.DATABASES`."""
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
    """Those of `settings.DATABASES`."""
    if not _is_in_use():
        return ()
    from .outbox import databases

    return databases()


@hookimpl
def own_transaction(database: Database) -> AbstractAsyncContextManager[Run]:
    """In a thread of its own."""
    from .outbox import own_transaction

    return own_transaction(database)


@hookimpl
def atomic_transaction(
    target: object, refs: Sequence[Ref]
) -> AbstractAsyncContextManager[Transaction]:
    """An atomic block."""
    from .atomic import atomic_transaction

    return atomic_transaction(target, refs)


@hookimpl
async def check() -> Iterable[Finding]:
    """Databases reachable, and settings that will hurt in production."""
    if not _is_in_use():
        return ()
    from .doctor import check

    return await check()


@hookimpl
def adapter_suite() -> str:
    """On SQLite, or on the databases of the settings."""
    return "asynctasq_django.suite:TestDjango"

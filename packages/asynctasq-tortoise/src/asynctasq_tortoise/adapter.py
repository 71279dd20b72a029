"""The hooks of asynctasq for Tortoise; they import it only once the application has.

Tortoise does not remember what the hooks need to know (which rows an open transaction wrote, which
instances were deleted, which database a row came from), so recording starts as soon as the
application imports Tortoise.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import cache
from typing import TYPE_CHECKING, Any

import wrapt
from asynctasq import Database, DeferredSend, Finding, Ref, Run, Transaction, hookimpl

if TYPE_CHECKING:
    from .lifecycle import TaskScope


@wrapt.when_imported("tortoise")
def _start_recording(_: object) -> None:
    from . import recording

    recording.install()


@hookimpl
def is_model(obj: object) -> bool:
    """Whether it is an instance of a Tortoise model."""
    models = sys.modules.get("tortoise.models")
    base = getattr(models, "Model", None)
    return base is not None and issubclass(type(obj), base)


@hookimpl
def to_ref(obj: Any) -> Ref:
    """The reference: class and key, and the database if the model is not routed to it."""
    from . import identity

    return identity.to_ref(obj)


@hookimpl
async def fetch_many(refs: Sequence[Ref]) -> Sequence[object | None]:
    """The rows, from the database that the model is written to unless a reference names another."""
    from . import loading

    return await loading.fetch_many(refs)


@hookimpl
def is_outage(error: Exception) -> bool:
    """Decided by the exception classes of Tortoise and its drivers."""
    if "tortoise" not in sys.modules:
        return False
    from . import outages

    return outages.is_of_a_database(error)


@hookimpl
def option_names() -> Collection[str]:
    """`tortoise_config`: the arguments of `Tortoise.init`."""
    return ["tortoise_config"]


@hookimpl
def configure(options: Mapping[str, Any]) -> None:
    """Remember `tortoise_config` until it is needed."""
    from . import lifecycle

    lifecycle.configure(options.get("tortoise_config"))


@hookimpl
async def worker_started() -> None:
    """Initialise Tortoise, if it is configured."""
    from . import lifecycle

    await lifecycle.start_worker()


@hookimpl
async def worker_stopped() -> None:
    """Close the connections that this process's tasks used."""
    from . import lifecycle

    await lifecycle.stop_worker()


@hookimpl
def task_scope() -> AbstractAsyncContextManager[object] | None:
    """Ends the transaction of locked rows, and closes what the task itself initialised."""
    return _scope_class()() if "tortoise" in sys.modules else None


@cache
def _scope_class() -> type[TaskScope]:
    """Looked up once instead of imported for each run."""
    from .lifecycle import TaskScope

    return TaskScope


@hookimpl
def is_pending_write(obj: object) -> bool:
    """Whether an open `in_transaction` block of this context wrote the row."""
    from . import commits

    return commits.is_pending_write(obj)


@hookimpl
def after_commit(obj: object, send: DeferredSend) -> None:
    """Send once the outermost `in_transaction` block has committed."""
    from . import commits

    commits.after_commit(obj, send)


@hookimpl
def owns_transaction(target: object) -> bool:
    """Whether the target is a client from `in_transaction`."""
    if "tortoise" not in sys.modules:
        return False
    from .clients import is_transaction

    return is_transaction(target)


@hookimpl
def open_transaction() -> object | None:
    """The most recently begun transaction open in this context."""
    if "tortoise" not in sys.modules:
        return None
    from . import commits

    return commits.open_transaction()


@hookimpl
def databases() -> Iterable[Database]:
    """The connections of Tortoise's configuration."""
    if "tortoise" not in sys.modules:
        return ()
    from . import outbox

    return outbox.databases()


@hookimpl
def own_transaction(database: Database) -> AbstractAsyncContextManager[Run]:
    """An outermost `in_transaction` block."""
    from . import outbox

    return outbox.own_transaction(database)


@hookimpl
def atomic_transaction(
    target: object, refs: Sequence[Ref]
) -> AbstractAsyncContextManager[Transaction]:
    """An `in_transaction` block around the task."""
    from . import atomic

    return atomic.atomic_transaction(target, refs)


@hookimpl
async def check() -> Sequence[Finding]:
    """Checks databases, pools, time zone, modules and indexes."""
    from . import doctor

    return await doctor.check()


@hookimpl
def adapter_suite() -> str:
    """The suite, which runs on SQLite and needs the extra `testing` of core."""
    return "asynctasq_tortoise.suite:TestTortoise"

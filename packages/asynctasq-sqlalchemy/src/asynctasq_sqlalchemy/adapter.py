"""The hooks that asynctasq calls for SQLAlchemy; the entry point `sqlalchemy` names this module.

Owns the rule that SQLAlchemy is imported only after the application has imported it: hooks check
`sys.modules` first, and import the modules that need SQLAlchemy only then.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import cache
from typing import TYPE_CHECKING, Any

import wrapt
from asynctasq import (
    ConfigurationError,
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
    from .sessions import TaskScope


def _is_loaded() -> bool:
    return "asynctasq_sqlalchemy.commits" in sys.modules


@wrapt.when_imported("sqlalchemy.orm")
def _watch(module: object) -> None:
    """Start listening before the first model is mapped and before the first flush."""
    from . import commits, mapped_classes

    mapped_classes.watch()
    commits.watch()


def _forked() -> None:
    """Leave connections that this forked child inherited to its parent."""
    if _is_loaded():
        from .engines import abandon_inherited

        abandon_inherited()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


@hookimpl
def is_model(obj: object) -> bool | None:
    """Whether the object's class is mapped."""
    if not _is_loaded():
        return None
    from .mapped_classes import is_mapped

    return is_mapped(type(obj))


@hookimpl
def to_ref(obj: object) -> Ref:
    """The reference, from the instance's identity."""
    from .identity import to_ref as reference

    return reference(obj)


@hookimpl
def fetch_many(refs: Sequence[Ref]) -> Awaitable[Sequence[object | None]]:
    """The rows, through the model's session factory."""
    from .loading import fetch_many as fetch

    return fetch(refs)


@hookimpl
def is_outage(error: Exception) -> bool:
    """Decided by SQLAlchemy's exception classes and the driver's codes in them."""
    if not _is_loaded():
        return False
    from .failures import gave_way

    return gave_way(error)


@hookimpl
def option_names() -> Collection[str]:
    """`sqlalchemy_engine`: one or more engines to dispose at the end."""
    return ("sqlalchemy_engine",)


@hookimpl
def configure(options: Mapping[str, Any]) -> None:
    """Take over the disposal of the given engines."""
    engine = options.get("sqlalchemy_engine")
    if engine is not None or _is_loaded():
        from .engines import own

        own(engine)


@hookimpl
async def worker_stopped() -> None:
    """Dispose the engines, on the event loop that used them."""
    if _is_loaded():
        from .engines import dispose_all

        await dispose_all()


@hookimpl
def task_scope(
    message: Message, instances: Sequence[object]
) -> AbstractAsyncContextManager[object] | None:
    """The sessions of one run."""
    return _scope_class()(message.task, instances) if _is_loaded() else None


@cache
def _scope_class() -> type[TaskScope]:
    """Looked up once: an import per run would cost more than the rest of its scope."""
    from .sessions import TaskScope

    return TaskScope


@hookimpl
def is_pending_write(obj: object) -> bool:
    """Whether the instance's session has written it without committing yet."""
    from .commits import is_pending_write as is_pending

    return is_pending(obj)


@hookimpl
def after_commit(obj: object, send: DeferredSend) -> None:
    """Send once this session, or the instance's session, has committed."""
    from sqlalchemy.orm import object_session
    from sqlalchemy.orm.attributes import instance_state

    from .commits import after_commit as defer
    from .factories import session_of

    if (session := session_of(obj)) is not None:
        defer(session, send, None)
    elif (session := object_session(obj)) is not None:
        defer(session, send, instance_state(obj).mapper)
    else:
        raise ConfigurationError(f"this {type(obj).__qualname__} belongs to no session any more")


@hookimpl
def owns_transaction(target: object) -> bool | None:
    """Whether the target is a session."""
    if not _is_loaded():
        return None
    from .factories import session_of

    return session_of(target) is not None


@hookimpl
def databases() -> Iterable[Database]:
    """The databases behind session factories."""
    if not _is_loaded():
        return ()
    from .outbox import databases as found

    return found()


@hookimpl
def own_transaction(database: Database) -> AbstractAsyncContextManager[Run]:
    """A transaction on a connection from the engine's pool."""
    from .outbox import own_transaction as begin

    return begin(database)


@hookimpl
def atomic_transaction(
    target: object, refs: Sequence[Ref]
) -> AbstractAsyncContextManager[Transaction]:
    """The transaction of the task's session."""
    from .atomic import atomic_transaction as begin

    return begin(target, refs)


@hookimpl
async def check() -> Iterable[Finding]:
    """What `asynctasq doctor` says about session factories, engines and databases."""
    if not _is_loaded():
        return []
    from .doctor import check as look

    return await look()


@hookimpl
def lazy_names() -> Mapping[str, str]:
    """Names that applications may import from `asynctasq` itself."""
    return {
        "create_worker_session_factory": "asynctasq_sqlalchemy:create_worker_session_factory",
        "task_session": "asynctasq_sqlalchemy:task_session",
    }


@hookimpl
def adapter_suite() -> str:
    """The suite of `asynctasq test-adapter sqlalchemy`."""
    return "asynctasq_sqlalchemy.suite:TestSQLAlchemy"

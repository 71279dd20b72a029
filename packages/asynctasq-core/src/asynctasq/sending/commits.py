"""Which transaction a dispatch waits for, if any.

Owns the rule that a call whose row is not committed yet is not sent before the commit, and not at
all after a rollback.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

from ..adapters.hookspecs import DeferredSend
from ..adapters.lazy import unfetched_reference
from ..adapters.plugins import Adapter, Adapters
from ..errors import ConfigurationError
from .deferred import Deferred, Shares

#: Makes a send wait for a transaction.
Registration = Callable[[DeferredSend], None]


@dataclass(slots=True)
class Atomic:
    """The transaction of this context's atomic task, which its dispatches are part of.

    Attributes:
        target: What the adapter's `after_commit` takes for it.
        is_open: Whether it is still open; code that the task left running may outlive it.
    """

    adapter: Adapter
    target: object
    is_open: bool = True


_atomic: ContextVar[Atomic | None] = ContextVar("asynctasq_atomic", default=None)


def open_atomic() -> Atomic | None:
    """The open transaction of the atomic task running here; `None` if there is none."""
    atomic = _atomic.get()
    return atomic if atomic is not None and atomic.is_open else None


@contextmanager
def dispatching_in(atomic: Atomic) -> Iterator[None]:
    """Make everything dispatched here wait for this transaction."""
    token = _atomic.set(atomic)
    try:
        yield
    finally:
        atomic.is_open = False
        _atomic.reset(token)


def what_to_wait_for(
    wait_for: object, models: Sequence[tuple[Any, object]], adapters: Adapters
) -> Registration | None:
    """A function that registers a send with the open transactions that the call depends on.

    Args:
        wait_for: The target given to `.on_commit`; `None` if it was not called.
        models: The call's model instances, each preceded by its adapter.
    """
    if wait_for is not None and wait_for is not True:
        return _given_transaction(wait_for, adapters)
    pending = [
        _after_commit(adapter, obj)
        for adapter, obj in models
        if adapter.is_pending_write is not None
        and unfetched_reference(obj) is None  # nothing was written through a lazy instance
        and adapter.is_pending_write(obj)
    ]
    if (atomic := open_atomic()) is not None:
        pending.append(_after_commit(atomic.adapter, atomic.target))
    if pending:
        return pending[0] if len(pending) == 1 else _after_all(pending)
    if wait_for is True:
        for adapter in adapters.with_hook("open_transaction"):
            target = adapter.open_transaction()  # type: ignore[misc]
            if target is not None:
                return _after_commit(adapter, target)
    return None


def _given_transaction(target: object, adapters: Adapters) -> Registration:
    for adapter in adapters.with_hook("owns_transaction"):
        if adapter.owns_transaction(target):  # type: ignore[misc]
            return _after_commit(adapter, target)
    raise ConfigurationError(
        f"on_commit({type(target).__qualname__}): no installed adapter knows such a session, "
        f"connection or alias"
    )


def _after_commit(adapter: Adapter, obj: object) -> Registration:
    if adapter.after_commit is None:
        raise ConfigurationError(f"adapter {adapter.name!r} cannot wait for a commit")
    hook = adapter.after_commit
    return lambda send: hook(obj, send)


def _after_all(registrations: Sequence[Registration]) -> Registration:
    """Combine several registrations: instances may have been written in several transactions."""

    def register(send: DeferredSend) -> None:
        shares = Shares(cast(Deferred, send), len(registrations))
        for registration in registrations:
            registration(shares)

    return register

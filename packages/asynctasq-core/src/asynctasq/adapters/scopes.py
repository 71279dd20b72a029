"""The scopes that adapters put round one run: of the task, and of its thread if it is a `def`.

Owns the rule that each adapter's scope gets the instances that the adapter itself has fetched, and
no others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack
from typing import Any

from ..wire.message import Message
from .fetching import Fetched
from .plugins import Adapter, Adapters


def scoped_adapters(adapters: Adapters) -> list[Adapter]:
    """The adapters that have a scope of either kind."""
    loaded = adapters.loaded.values()
    return [a for a in loaded if a.task_scope is not None or a.thread_scope is not None]


def task_scopes(
    adapters: Sequence[Adapter], message: Message, fetched: Fetched | None
) -> list[AbstractAsyncContextManager[object]]:
    """What surrounds one run on the event loop, not yet entered."""
    scopes = []
    for adapter in adapters:
        if adapter.task_scope is not None:
            scope = adapter.task_scope(message, fetched.of(adapter) if fetched is not None else ())
            if scope is not None:
                scopes.append(scope)
    return scopes


def enter_thread_scopes(
    adapters: Sequence[Adapter], message: Message, fetched: Fetched | None, stack: ExitStack
) -> None:
    """Enter what surrounds one run in its thread, which calls this."""
    for adapter in adapters:
        if adapter.thread_scope is not None:
            rows = fetched.of(adapter) if fetched is not None else ()
            scope = adapter.thread_scope(message, rows)
            if scope is not None:
                stack.enter_context(scope)


async def within(
    scopes: Sequence[AbstractAsyncContextManager[object]], run: Callable[[], Awaitable[Any]]
) -> Any:
    """Await what `run` gives, inside of all these; an `AsyncExitStack` costs far more."""
    if not scopes:
        return await run()
    async with scopes[0]:
        return await (within(scopes[1:], run) if len(scopes) > 1 else run())

"""When Tortoise is initialised, and when its connections are closed.

Owns three rules. One initialisation serves all tasks of a worker process, whoever made it: in
Tortoise 1.x a context belongs to the asyncio task that made it, so here it is given to the whole
process. Nothing outlives its owner: what a task opened for itself is closed with the task, and
everything else with the worker. And a forked child leaves inherited connections to its parent.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from contextvars import ContextVar, Token
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from asynctasq import AdapterNotReady, ReferenceUnavailable

from .settings import check_config, init_arguments

_log = logging.getLogger(__name__)
_scope: ContextVar[TaskScope | None] = ContextVar("asynctasq_tortoise_scope", default=None)


@dataclass(slots=True)
class _Process:
    """The configuration of this process, and what it has opened."""

    config: Mapping[str, Any] | None = None
    is_worker: bool = False
    initialising: asyncio.Task[None] | None = None
    is_made_by_task: bool = False
    is_to_close: bool = False
    context: Any = None


_process = _Process()


def configure(config: object) -> None:
    """Take `tortoise_config`, or its absence, from `asynctasq.init`."""
    _process.config = None if config is None else check_config(config)


def configured() -> Mapping[str, Any] | None:
    """`tortoise_config` as given."""
    return _process.config


def is_initialised() -> bool:
    """Whether queries in this context would find a configuration."""
    tortoise = sys.modules.get("tortoise")
    if tortoise is None or not tortoise.Tortoise._inited:
        return False
    contexts = sys.modules.get("tortoise.context")
    # A closed context of 1.x has no connections, yet still calls itself initialised.
    return contexts is None or contexts.get_current_context()._connections is not None


async def ensure_initialised() -> None:
    """Initialise Tortoise if that is our job; only one call does so at a time.

    Rows for arguments are fetched ahead only with a configuration of the whole process: a task that
    initialises Tortoise itself may choose another database than the task before it.

    Raises:
        AdapterNotReady: The task has to initialise Tortoise.
        ReferenceUnavailable: Initialising failed; the next call tries again.
    """
    is_ahead = _scope.get() is None
    is_for_task = _process.config is None and _process.is_made_by_task
    if is_initialised() and not (is_ahead and is_for_task):
        return
    if _process.config is None:
        raise AdapterNotReady(
            "Tortoise is not initialised: give asynctasq.init a tortoise_config, or await "
            "Tortoise.init in the task before the argument is used"
        )
    if _process.initialising is None:
        # In its own asyncio task, to keep the context of 1.x out of the caller's.
        _process.initialising = asyncio.create_task(_initialise(_process.config))
        _process.initialising.add_done_callback(_initialised)
    await asyncio.shield(_process.initialising)


async def _initialise(config: Mapping[str, Any]) -> None:
    from tortoise import Tortoise

    try:
        context = await Tortoise.init(**init_arguments(config))
    except Exception as e:
        raise ReferenceUnavailable(
            f"Tortoise could not be initialised from tortoise_config ({type(e).__name__}); it "
            f"will be tried again when next needed"
        ) from e
    _share(context)
    _process.is_to_close = True
    _process.is_made_by_task = False


def _initialised(task: asyncio.Task[None]) -> None:
    _process.initialising = None


def _share(context: Any) -> None:
    """Make a context of 1.x visible to every asyncio task; 0.x has no contexts."""
    _process.context = context
    if context is not None and _global_context() is None:
        sys.modules["tortoise.context"].set_global_context(context)


def _global_context() -> Any:
    return sys.modules["tortoise.context"]._global_context


def adopt(context: Any) -> None:
    """Adopt the context of a `Tortoise.init` in the application; called after each one.

    In a worker, the first one also serves later tasks, as `if not Tortoise._inited` in a task
    expects; any other serves only its own task.
    """
    scope = _scope.get()
    if not _process.is_worker or scope is None:
        return
    if context is None or _global_context() in (None, context):
        _share(context)
        _process.is_made_by_task = _process.is_to_close = True
    else:
        scope.stack.push_async_callback(context.close_connections)


async def start_worker() -> None:
    """Initialise from `tortoise_config` before the first task; a failure is logged."""
    _process.is_worker = True
    if _process.config is None:
        return
    try:
        await ensure_initialised()
    except ReferenceUnavailable:
        _log.exception("Tortoise is not initialised; the tasks that need it wait")


async def stop_worker() -> None:
    """Close the connections that the worker's tasks shared."""
    _process.is_worker = False
    await close()


async def close() -> None:
    """Close the connections of the process, unless the application itself opened them."""
    if not _process.is_to_close:
        return
    from tortoise import Tortoise

    if _process.context is not None:
        await _process.context.close_connections()
    else:
        await Tortoise.close_connections()
        state: Any = Tortoise
        state._inited = False  # 0.x still calls itself initialised
    _process.is_to_close = _process.is_made_by_task = False
    _process.context = None


async def close_unless_working() -> None:
    """Close what a command initialised, on the event loop that used it."""
    if not _process.is_worker:
        await close()


class TaskScope:
    """The scope of one run; costs next to nothing until there is something to close."""

    __slots__ = ("_stack", "_token")

    def __init__(self) -> None:
        self._stack: AsyncExitStack | None = None
        self._token: Token[TaskScope | None] | None = None

    async def __aenter__(self) -> TaskScope:
        self._token = _scope.set(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        if self._token is not None:
            _scope.reset(self._token)
        if self._stack is None:
            return None
        return await self._stack.__aexit__(kind, error, traceback)

    @property
    def stack(self) -> AsyncExitStack:
        """What to close when the run ends."""
        if self._stack is None:
            self._stack = AsyncExitStack()
        return self._stack


def current_scope() -> AsyncExitStack | None:
    """What to close when the run in this context ends; `None` outside of a run."""
    scope = _scope.get()
    return scope.stack if scope is not None else None


#: Clients of the parent process, kept because closing them would end the parent's connections.
_inherited: list[object] = []


def _leave_connections_to_parent() -> None:
    """After a fork, make the child open its own connections; 1.x does so with each new loop."""
    tortoise = sys.modules.get("tortoise")
    if tortoise is None or "tortoise.context" in sys.modules or not tortoise.Tortoise._inited:
        return
    handler = tortoise.connections
    _inherited.extend(handler.discard(alias) for alias in handler.db_config)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_connections_to_parent)

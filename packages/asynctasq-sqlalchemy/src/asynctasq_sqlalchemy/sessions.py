"""The sessions of one run of a task.

A run has at most one session per session factory. It is made when first needed and closed when the
run ends; whatever is uncommitted then is lost, as nothing is committed for the user. The run's
instances belong to it: those that could load more (a relationship, a deferred column) from the
start, others from the first `task_session()` on, so that a task without need for a session pays for
none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any

from asynctasq import ConfigurationError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm.attributes import instance_state

from .commits import has_changes, is_changed, is_unused
from .copies import attach
from .factories import (
    ATTRIBUTE,
    AnySession,
    all_factories,
    factory_of,
    find_factory,
    open_session,
    sync_part,
)

logger = logging.getLogger(__name__)


class TaskScope:
    """The sessions of one run; an async context manager that core enters around it.

    Args:
        task: The task's name, for the log.
        instances: The instances fetched for this run.
    """

    __slots__ = ("_instances", "_sessions", "_task", "_token")

    def __init__(self, task: str, instances: Sequence[object] = ()) -> None:
        self._task = task
        self._instances = instances
        self._sessions: dict[Any, AnySession] = {}
        self._token: Token[TaskScope | None] | None = None

    async def __aenter__(self) -> TaskScope:
        self._token = _current.set(self)
        for instance in self._instances:
            if _may_load_more(instance) and (factory := find_factory(type(instance))):
                self.session(factory)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._token is not None:
            _current.reset(self._token)
        if error is None and (self._sessions or self._instances):
            self._warn_of_lost_changes()
        if not self._sessions:
            return
        async with AsyncExitStack() as stack:
            for session in self._sessions.values():
                stack.push_async_callback(close, session)

    def session(self, factory: Any) -> AnySession:
        """This run's session from the factory, holding the run's instances of its models."""
        session = self._sessions.get(factory)
        if session is None:
            session = self._sessions[factory] = open_session(factory)
            mine = [i for i in self._instances if find_factory(type(i)) == factory]
            attach(sync_part(session), mine)
        return session

    def only_factory(self) -> Any:
        """The factory to use when no model is named.

        Raises:
            ConfigurationError: There is none, or more than one.
        """
        factories = {find_factory(type(i)) for i in self._instances} - {None}
        factories = factories or set(all_factories())
        if not factories:
            raise ConfigurationError(
                f"no model has a session factory: set Base.{ATTRIBUTE} in a module that the "
                f"worker imports"
            )
        if len(factories) > 1:
            raise ConfigurationError(
                "models of several session factories are in use: name one of the models, "
                "as in task_session(User)"
            )
        return factories.pop()

    def _warn_of_lost_changes(self) -> None:
        sessions = map(sync_part, self._sessions.values())
        if any(map(is_changed, self._instances)) or any(map(has_changes, sessions)):
            logger.warning(
                "the task ended with changes that it did not commit in task_session()",
                extra={"task": self._task},
            )


_current: ContextVar[TaskScope | None] = ContextVar("asynctasq_sqlalchemy_scope", default=None)


def current_scope() -> TaskScope:
    """The sessions of the task running here.

    Raises:
        ConfigurationError: No task runs here.
    """
    scope = _current.get()
    if scope is None:
        raise ConfigurationError(
            "task_session() and for_update() work inside a running task; elsewhere, open a session "
            "from your own session factory"
        )
    return scope


def task_session(model: type | None = None) -> Any:
    """The session of the running task, to which its instances belong.

    It connects on first use. Commit it to keep changes; it is closed when the task ends.

    Args:
        model: A model or base, to choose between several session factories.

    Returns:
        An `AsyncSession`, or a `Session` if the session factory is synchronous.

    Raises:
        ConfigurationError: No task runs here, or it is not clear which session is meant.
    """
    scope = current_scope()
    return scope.session(scope.only_factory() if model is None else factory_of(model))


def _may_load_more(instance: object) -> bool:
    state = instance_state(instance)
    # `state.unloaded` would say nearly the same, but builds three sets.
    return bool(state.mapper.relationships) or not state.manager.keys() <= state.dict.keys()


async def close(session: AnySession) -> None:
    """Give the session's connection back, even if the caller is cancelled meanwhile.

    A session that was never used only drops its instances, without switching greenlet or thread.
    """
    if is_unused(sync_part(session)):
        sync_part(session).expunge_all()
    elif isinstance(session, AsyncSession):
        await asyncio.shield(session.close())
    else:
        await asyncio.shield(asyncio.to_thread(session.close))

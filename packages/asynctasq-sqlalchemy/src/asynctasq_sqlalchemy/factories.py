"""Session factories, found through the class hierarchy of a model.

A factory is the attribute `_asynctasq_session_factory` of a model or one of its bases: an
`async_sessionmaker`, a `sessionmaker`, a scoped session, or anything that returns a session when
called. Owns the rule that each use opens its own session.
"""

from __future__ import annotations

import inspect as python
from typing import Any

from asynctasq import ConfigurationError
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from .mapped_classes import mapped_classes

ATTRIBUTE = "_asynctasq_session_factory"

AnySession = AsyncSession | Session


def find_factory(cls: type) -> Any:
    """The session factory of a model or base; `None` if none is set."""
    for base in cls.__mro__:
        members = vars(base)
        if ATTRIBUTE in members:
            value = members[ATTRIBUTE]
            # Unwrapped: as a class attribute a plain function would become a method.
            return (
                value.__get__(None, cls) if isinstance(value, staticmethod | classmethod) else value
            )
        private = members.get("__private_attributes__")
        if private and ATTRIBUTE in private:  # where SQLModel puts what a class body sets
            return private[ATTRIBUTE].default
    return None


def factory_of(cls: type) -> Any:
    """The session factory of a model or base.

    Raises:
        ConfigurationError: None is set. Waiting would not help, so the task fails as usual.
    """
    factory = find_factory(cls)
    if factory is None:
        base = declarative_base(cls)
        raise ConfigurationError(
            f"{cls.__qualname__} has no session factory: set "
            f"{base.__name__}.{ATTRIBUTE} = async_sessionmaker(engine, expire_on_commit=False) "
            f"in a module that the worker imports"
        )
    return factory


def declarative_base(cls: type) -> type:
    """The topmost class that shares the model's metadata."""
    return next((b for b in reversed(cls.__mro__) if "metadata" in vars(b)), cls)


def all_factories() -> dict[Any, list[type]]:
    """Each distinct factory with the mapped classes that use it."""
    found: dict[Any, list[type]] = {}
    for cls in mapped_classes():
        factory = find_factory(cls)
        if factory is not None:
            found.setdefault(factory, []).append(cls)
    return found


def open_session(factory: Any) -> AnySession:
    """A new session; it connects on first use.

    Raises:
        ConfigurationError: The factory does not return a session.
    """
    if isinstance(factory, async_scoped_session | scoped_session):
        factory = factory.session_factory  # the registry itself would share one session
    made = factory() if callable(factory) else factory
    if made is not factory and isinstance(made, AsyncSession | Session):
        return made
    if python.iscoroutine(made):
        made.close()
    raise ConfigurationError(
        f"{ATTRIBUTE} must return a new session when it is called, not be or return "
        f"{type(made).__qualname__}: give an async_sessionmaker or a sessionmaker"
    )


def sync_part(session: AnySession) -> Session:
    """The `Session` inside an `AsyncSession`; a `Session` is returned as it is."""
    return session.sync_session if isinstance(session, AsyncSession) else session


def session_of(target: object) -> Session | None:
    """The `Session` behind an argument of `.on_commit(...)`; `None` if it is not one."""
    if isinstance(target, async_scoped_session | scoped_session):
        target = target()
    return sync_part(target) if isinstance(target, AsyncSession | Session) else None

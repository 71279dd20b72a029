"""Engines: made for workers, disposed when a worker stops, left alone by forked children.

An engine given to `sqlalchemy_engine` is disposed even without a worker. An asynchronous one is
disposed with each event loop that used it, since its connections cannot outlive the loop; it
reconnects on the next. A synchronous one is disposed when the program ends.
"""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from asynctasq import ConfigurationError, at_loop_end
from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool, Pool, QueuePool

from .factories import all_factories

AnyEngine = AsyncEngine | Engine

#: Engine options that configure the pool: if one is given, the user has chosen a pool.
_POOL_OPTIONS = {"pool", "poolclass", "pool_size", "max_overflow", "pool_timeout", "pool_use_lifo"}

_given: list[AnyEngine] = []
_made: WeakSet[Any] = WeakSet()
_watched: WeakSet[AsyncEngine] = WeakSet()

#: By event loop: what disposes the engines used on it.
_ends: WeakKeyDictionary[
    asyncio.AbstractEventLoop, dict[AsyncEngine, Callable[[], Awaitable[None]]]
]
_ends = WeakKeyDictionary()
_abandoned: list[Pool] = []


def create_worker_session_factory(
    url: str | URL,
    *,
    expire_on_commit: bool = False,
    autoflush: bool = True,
    class_: type[Any] | None = None,
    info: dict[Any, Any] | None = None,
    **engine_options: Any,
) -> Any:
    """A session factory for worker processes, without a connection pool unless you ask for one.

    `NullPool` opens a connection when a session needs one and closes it afterwards, so that
    processes cannot share any. Any pool option (`pool_size=10`, `poolclass=...`) chooses a pool
    instead; forked children then start with an empty one. The engine is disposed when the worker
    stops.

    Args:
        url: The database's URL. Its driver decides between asynchronous and synchronous sessions.
        expire_on_commit: As in a sessionmaker; off by default, because asynchronous code cannot
            read expired attributes.
        autoflush: As in a sessionmaker.
        class_: The session class. With psycopg, which supports both, it decides: asynchronous
            sessions by default, synchronous ones with a subclass of `Session`.
        info: The sessions' `info`.
        engine_options: Options of `create_async_engine` or `create_engine`.

    Returns:
        An `async_sessionmaker`, or a `sessionmaker` if the driver is synchronous.
    """
    url = make_url(url)
    if not engine_options.keys() & _POOL_OPTIONS and not _is_in_memory(url):
        engine_options["poolclass"] = NullPool
    options: dict[str, Any]
    options = {"expire_on_commit": expire_on_commit, "autoflush": autoflush, "info": info}
    is_async = url.get_dialect().get_async_dialect_cls(url).is_async
    if is_async and not (class_ and issubclass(class_, Session)):
        async_engine = create_async_engine(url, **engine_options)
        _made.add(async_engine)
        return async_sessionmaker(async_engine, class_=class_ or AsyncSession, **options)
    engine = create_engine(url, **engine_options)
    _made.add(engine)
    return sessionmaker(engine, class_=class_ or Session, **options)


def _is_in_memory(url: URL) -> bool:
    """Whether each connection would open its own empty SQLite database."""
    return url.get_backend_name() == "sqlite" and (
        url.database in (None, "", ":memory:") or url.query.get("mode") == "memory"
    )


def own(engines: AnyEngine | Iterable[AnyEngine] | None) -> None:
    """Take over the disposal of these engines, in place of any taken over before.

    Raises:
        ConfigurationError: One of them is not an engine.
    """
    several: Iterable[Any] = engines if isinstance(engines, list | tuple | set) else [engines]
    given = [engine for engine in several if engine is not None]
    for engine in given:
        if not isinstance(engine, AsyncEngine | Engine):
            raise ConfigurationError(
                f"sqlalchemy_engine takes an engine or a list of engines, "
                f"not {type(engine).__qualname__}"
            )
    _given[:] = given
    for engine in given:
        if isinstance(engine, AsyncEngine) and engine not in _watched:
            _watched.add(engine)
            event.listen(engine.sync_engine, "checkout", _end_with_loop(engine))


def _end_with_loop(engine: AsyncEngine) -> Callable[..., None]:
    """A listener that makes the running loop dispose the engine whenever a connection is taken."""

    def note(*_: object) -> None:
        ends = _ends.setdefault(asyncio.get_running_loop(), {})
        if engine in _given and engine not in ends:
            ends[engine] = at_loop_end(engine.dispose)

    return note


@atexit.register
def _dispose_at_exit() -> None:
    for engine in _given:
        if isinstance(engine, Engine):
            engine.dispose()


def given_engines() -> list[AnyEngine]:
    """The engines of the option `sqlalchemy_engine`."""
    return list(_given)


async def dispose_all() -> None:
    """Close the pools of engines that are ours to close; call on the loop that used them."""
    pooled = [engine for engine in _made if isinstance(engine.pool, QueuePool)]
    ends = _ends.pop(asyncio.get_running_loop(), {})
    for engine in {*_given, *pooled}:
        if engine in ends:
            await ends[engine]()
        elif isinstance(engine, AsyncEngine):
            await engine.dispose()
        else:
            await asyncio.to_thread(engine.dispose)


def abandon_inherited() -> None:
    """In a forked child: start with empty pools, and leave the parent's connections alone."""
    for engine in set(_known()):
        if isinstance(engine.pool, QueuePool):
            # Kept alive: when collected, a driver may write a goodbye into the shared socket.
            _abandoned.append(engine.pool)
            engine.dispose(close=False)


def _known() -> Iterator[Engine]:
    for factory in all_factories():
        options = getattr(getattr(factory, "session_factory", factory), "kw", {})
        for engine in (options.get("bind"), *(options.get("binds") or {}).values()):
            if isinstance(engine, AsyncEngine | Engine):
                yield sync_engine(engine)
    for engine in (*_given, *_made):
        yield sync_engine(engine)


def sync_engine(engine: AnyEngine) -> Engine:
    """The `Engine` inside an `AsyncEngine`; an `Engine` is returned as it is."""
    return engine.sync_engine if isinstance(engine, AsyncEngine) else engine

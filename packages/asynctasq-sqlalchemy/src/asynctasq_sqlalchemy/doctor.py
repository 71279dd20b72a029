"""What `asynctasq doctor` says about session factories, engines and databases."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from time import perf_counter
from typing import Any, Literal

from asynctasq import Finding
from sqlalchemy import Connection, Engine, inspect, literal, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool, QueuePool

from .engines import given_engines, sync_engine
from .factories import (
    ATTRIBUTE,
    AnySession,
    all_factories,
    declarative_base,
    find_factory,
    open_session,
    sync_part,
)
from .loading import work_in
from .mapped_classes import mapped_classes
from .sessions import close

#: Seconds that a database may take to answer.
TIMEOUT = 5.0

#: Statements that return how many connections a database has and how many its server allows. This
#: process's pool says nothing about the pools of the workers.
_CONNECTIONS = {
    "postgresql": (
        "SELECT count(*), current_setting('max_connections')::int FROM pg_stat_activity "
        "WHERE datname = current_database()"
    ),
    "mysql": (
        "SELECT count(*), @@max_connections FROM information_schema.processlist "
        "WHERE db = database()"
    ),
}
_CONNECTIONS["mariadb"] = _CONNECTIONS["mysql"]

#: What can be wrong with a pool, and what to do about it.
_SHARED = (
    "the application and its tasks use the same pooled engine",
    "give workers an engine of their own: create_worker_session_factory(url)",
)
_UNCHECKED = (
    "a connection that the server closed fails the query that gets it",
    "create the engine with pool_pre_ping=True",
)
_OLD = (
    "connections are kept however old they get",
    "create the engine with pool_recycle=3600",
)


async def check() -> list[Finding]:
    """Findings on every session factory and every engine that the loaded models use."""
    findings = list(_models_without_factory())
    seen: set[Engine] = set()
    for factory, classes in all_factories().items():
        try:
            findings += await _factory(factory, classes, seen)
        except Exception as e:  # noqa: BLE001 - whatever the application's factory does
            findings.append(
                Finding("error", _of(classes), f"cannot be used ({type(e).__name__}: {e})")
            )
    return findings


async def _factory(factory: Any, classes: list[type], seen: set[Engine]) -> list[Finding]:
    """Findings on one factory, and on its engines that have not been checked yet."""
    session = open_session(factory)
    findings = [_session(sync_part(session), classes)]
    try:
        for engine, model in _engines(sync_part(session), classes).items():
            if engine not in seen:
                seen.add(engine)
                findings += [*await _database(session, engine, model), *_pool(engine)]
    finally:
        await close(session)
    return findings


def _models_without_factory() -> Iterator[Finding]:
    without: dict[type, list[type]] = {}
    for cls in mapped_classes():
        if find_factory(cls) is None:
            without.setdefault(declarative_base(cls), []).append(cls)
    for base, classes in without.items():
        yield Finding(
            "warning",
            f"models of {base.__qualname__}",
            f"no session factory for {_names(classes)}",
            f"set {base.__name__}.{ATTRIBUTE}, or no task can receive them",
        )


def _names(classes: Iterable[type]) -> str:
    names = sorted(cls.__qualname__ for cls in classes)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _of(classes: list[type]) -> str:
    return f"session factory of {_names(classes)}"


def _session(session: Session, classes: list[type]) -> Finding:
    if not session.expire_on_commit:
        return Finding("ok", _of(classes), "attributes stay readable after a commit")
    return Finding(
        "warning",
        _of(classes),
        "attributes expire at each commit: reading them afterwards queries again, and fails in "
        "asynchronous code (MissingGreenlet, DetachedInstanceError)",
        "create it with expire_on_commit=False",
    )


def _engines(session: Session, classes: list[type]) -> dict[Engine, type]:
    """The engines behind a session, each with a model that it serves."""
    found: dict[Engine, type] = {}
    for cls in classes:
        bind = session.get_bind(mapper=inspect(cls))
        found.setdefault(bind.engine if isinstance(bind, Connection) else bind, cls)
    return found


def _subject(engine: Engine) -> str:
    place = f"{engine.url.host or ''}/{engine.url.database or ''}"
    return f"sqlalchemy engine {engine.dialect.name}+{engine.driver} {place}"


async def _database(session: AnySession, engine: Engine, model: type) -> list[Finding]:
    subject, started = _subject(engine), perf_counter()
    try:
        figures = await asyncio.wait_for(work_in(session, _ask, model), TIMEOUT)
    except Exception as e:  # noqa: BLE001 - drivers raise what they like when they connect
        return [
            Finding(
                "error",
                subject,
                f"did not answer ({type(getattr(e, 'orig', None) or e).__qualname__})",
                "check that the server runs and that the engine's URL and credentials are right",
            )
        ]
    milliseconds = (perf_counter() - started) * 1000
    findings = [Finding("ok", subject, f"answered within {milliseconds:.0f} ms")]
    if figures is not None:
        used, allowed = figures
        told = f"{used} connections in use for this database; its server allows {allowed} in all"
        findings.append(Finding("ok", subject, told))
    return findings


def _ask(session: Session, model: type) -> Sequence[int] | None:
    """Ask the database something; returns its connections and the server's limit if it can tell."""
    connection = session.connection(bind_arguments={"mapper": inspect(model)})
    connection.execute(select(literal(1))).scalar_one()
    statement = _CONNECTIONS.get(connection.dialect.name)
    try:
        return connection.execute(text(statement)).one() if statement else None
    except DBAPIError:  # it speaks the server's protocol but is something else
        return None
    finally:
        session.rollback()


def _pool(engine: Engine) -> Iterator[Finding]:
    subject, pool = _subject(engine), engine.pool
    if not isinstance(pool, QueuePool):
        status = "each process opens connections as it needs them"
        status = status if isinstance(pool, NullPool) else pool.status()
        yield Finding("ok", subject, f"{type(pool).__name__}: {status}")
        return
    # SQLite has no server that could close connections or count them.
    has_server = engine.dialect.name != "sqlite"
    for level, told, advice in _figures(pool, has_server):
        yield Finding(level, subject, told, advice)
    is_given = any(sync_engine(given) is engine for given in given_engines())
    # SQLAlchemy has no public names for a pool's settings.
    for is_amiss, told, advice in (
        (is_given, *_SHARED),
        (has_server and not pool._pre_ping, *_UNCHECKED),
        (has_server and pool._recycle < 0, *_OLD),
    ):
        if is_amiss:
            yield Finding("warning", subject, told, advice)


def _figures(
    pool: QueuePool, has_server: bool
) -> Iterator[tuple[Literal["ok", "warning"], str, str]]:
    size, more, timeout = pool.size(), pool._max_overflow, pool.timeout()
    overflow = str(more) if more >= 0 else "any number"
    yield (
        "ok",
        f"pool of {size} and {overflow} more; a session waits {timeout:g} s for a connection",
        "",
    )
    if not has_server:
        return
    limit = f"up to {size + more}" if more >= 0 else f"{overflow} of"
    yield (
        "warning",
        f"every worker process keeps a pool of its own: {limit} connections for each",
        "with several processes use create_worker_session_factory(url) (NullPool), or keep "
        "processes x (pool_size + max_overflow) below the server's limit",
    )

"""What `asynctasq doctor` says of session factories, engines and databases."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from time import perf_counter
from typing import Any

from asynctasq import Finding
from sqlalchemy import Connection, Engine, inspect, literal, select
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
from .models import mapped_classes
from .sessions import close

#: Seconds that a database may take to answer.
TIMEOUT = 5.0


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
    """Findings on one factory, and on those of its engines that were not looked at yet."""
    session = open_session(factory)
    findings = [_session(sync_part(session), classes)]
    try:
        for engine, model in _engines(sync_part(session), classes).items():
            if engine not in seen:
                seen.add(engine)
                findings += [await _reached(session, engine, model), *_pool(engine)]
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


async def _reached(session: AnySession, engine: Engine, model: type) -> Finding:
    started = perf_counter()
    try:
        await asyncio.wait_for(work_in(session, _select_one, model), TIMEOUT)
    except Exception as e:  # noqa: BLE001 - drivers raise what they like when they connect
        return Finding(
            "error",
            _subject(engine),
            f"did not answer ({type(getattr(e, 'orig', None) or e).__qualname__})",
            "check that the server runs and that the engine's URL and credentials are right",
        )
    milliseconds = (perf_counter() - started) * 1000
    return Finding("ok", _subject(engine), f"answered within {milliseconds:.0f} ms")


def _select_one(session: Session, model: type) -> None:
    connection = session.connection(bind_arguments={"mapper": inspect(model)})
    connection.execute(select(literal(1))).scalar_one()
    session.rollback()  # gives the connection back, so that the pool's figures are without it


def _pool(engine: Engine) -> Iterator[Finding]:
    subject, pool = _subject(engine), engine.pool
    if isinstance(pool, NullPool):
        yield Finding("ok", subject, "NullPool: each process opens connections as it needs them")
        return
    if not isinstance(pool, QueuePool):
        yield Finding("ok", subject, f"{type(pool).__name__}: {pool.status()}")
        return
    # SQLAlchemy has no public name for these three settings of a pool.
    overflow = str(pool._max_overflow) if pool._max_overflow >= 0 else "any number"
    limit = f"up to {pool.size() + pool._max_overflow}" if overflow.isdigit() else overflow + " of"
    yield Finding(
        "ok",
        subject,
        f"pool of {pool.size()} and {overflow} more, {pool.checkedout()} in use; a session waits "
        f"{pool.timeout():g} s for a connection",
    )
    yield Finding(
        "warning",
        subject,
        f"every worker process keeps a pool of its own: {limit} connections for each",
        "with several processes use create_worker_session_factory(url) (NullPool), or keep "
        "processes x (pool_size + max_overflow) below the server's limit",
    )
    if any(sync_engine(given) is engine for given in given_engines()):
        yield Finding(
            "warning",
            subject,
            "the application and its tasks use the same pooled engine",
            "give workers an engine of their own: create_worker_session_factory(url)",
        )
    if not pool._pre_ping:
        yield Finding(
            "warning",
            subject,
            "a connection that the server closed fails the query that gets it",
            "create the engine with pool_pre_ping=True",
        )
    if pool._recycle < 0:
        yield Finding(
            "warning",
            subject,
            "connections are kept however old they get",
            "create the engine with pool_recycle=3600",
        )

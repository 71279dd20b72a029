"""Rows for references: one query for all of a model, an instance of its own for each place."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from asynctasq import Ref
from sqlalchemy import ColumnElement, Select, and_, inspect, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.ext.horizontal_shard import set_shard_id
from sqlalchemy.orm import Mapper, Session
from sqlalchemy.sql.base import ExecutableOption

from .copies import copy_of, is_linked
from .factories import AnySession, factory_of, open_session
from .failures import explained
from .identity import Identity, identities
from .options import ForUpdate, ReadFrom
from .sessions import close, current_scope

R = TypeVar("R")

#: Bound parameters that one statement may have; 900 for databases not named here.
_PARAMETER_LIMIT = {"postgresql": 32_000, "mysql": 32_000, "mariadb": 32_000, "mssql": 2_000}
_OTHER_LIMIT = 900

#: Databases that have no `(a, b) IN ((1, 2), ...)`; their condition is a tree, kept flat enough.
_WITHOUT_TUPLES = {"mssql"}
_LONGEST_TREE = 200


async def fetch_many(refs: Sequence[Ref]) -> list[object | None]:
    """The rows of references to one model, database and options, in their order.

    With `for_update` in the options they are rows of the running task's session. Otherwise the
    connection has been given back when this returns, and the instances are detached.

    Raises:
        ReferenceUnavailable: The database did not answer, or a lock was not to be had.
        InvalidReference: A key cannot be one of the model.
        ConfigurationError: The model has no session factory.
    """
    model, options = refs[0].model_class(), refs[0].options
    mapper: Mapper[Any] = inspect(model)
    keys = identities(mapper, (ref.pk for ref in refs))
    query = _query(model, options, refs[0].db)
    source = next((o.session_factory for o in options if isinstance(o, ReadFrom)), None)
    factory = source or factory_of(model)
    try:
        if refs[0].in_task_scope:
            session = current_scope().session(factory)
            return await work_in(session, _rows, query, mapper, keys)
        session = open_session(factory)
        try:
            return await work_in(session, _own_rows, query, mapper, keys)
        finally:
            await close(session)
    except Exception as e:
        error = explained(e, model)
        if error is e:
            raise
        raise error from e


async def work_in(session: AnySession, work: Callable[..., R], *args: Any) -> R:
    """Call `work` with the session's synchronous part; the event loop goes on meanwhile."""
    if isinstance(session, AsyncSession):
        return await session.run_sync(work, *args)
    return await asyncio.to_thread(work, session, *args)


def _query(model: type, options: Sequence[Any], shard: str | None) -> Select[Any]:
    query: Select[Any] = select(model)
    query = query.options(*(o for o in options if isinstance(o, ExecutableOption)))
    if shard is not None:
        query = query.options(set_shard_id(shard))
    for lock in options:
        if isinstance(lock, ForUpdate):
            query = query.with_for_update(
                nowait=lock.nowait,
                skip_locked=lock.skip_locked,
                of=lock.of,
                read=lock.read,
                key_share=lock.key_share,
            ).execution_options(populate_existing=True)
    return query


def _own_rows(
    session: Session, query: Select[Any], mapper: Mapper[Any], keys: Sequence[Identity]
) -> list[object | None]:
    """Detached rows, none of which shares anything with another."""
    rows = _rows(session, query, mapper, keys)
    session.expunge_all()
    uses = Counter(id(row) for row in rows if row is not None)
    if len(rows) == 1 or not (
        any(n > 1 for n in uses.values()) or any(row and is_linked(row) for row in rows)
    ):
        return rows
    return [
        row if row is None or (uses[id(row)] == 1 and not is_linked(row)) else copy_of(row)
        for row in rows
    ]


def _rows(
    session: Session, query: Select[Any], mapper: Mapper[Any], keys: Sequence[Identity]
) -> list[object | None]:
    """The rows of the keys in their order; the same row for the same key."""
    dialect = session.get_bind(mapper=mapper).dialect.name
    wanted = list(dict.fromkeys(keys))
    found: dict[Identity, object] = {}
    for start in range(0, len(wanted), size := _chunk_size(dialect, mapper)):
        condition = _condition(mapper, wanted[start : start + size], dialect)
        for row in session.scalars(query.where(condition)).unique():
            found[_identity(row)] = row
    _rename(session, query, mapper, wanted, found, dialect)
    return [found.get(key) for key in keys]


def _rename(
    session: Session,
    query: Select[Any],
    mapper: Mapper[Any],
    wanted: Sequence[Identity],
    found: dict[Identity, object],
    dialect: str,
) -> None:
    """Find the keys of rows that the database wrote otherwise: padded, or in another case."""
    strange = found.keys() - set(wanted)
    for key in wanted:
        if strange and key not in found:
            row = session.scalars(query.where(_condition(mapper, [key], dialect))).unique().first()
            if row is not None:
                found[key] = row
                strange.discard(_identity(row))


def _identity(row: object) -> Identity:
    identity: Identity = inspect(row).identity
    return identity


def _chunk_size(dialect: str, mapper: Mapper[Any]) -> int:
    size = _PARAMETER_LIMIT.get(dialect, _OTHER_LIMIT) // len(mapper.primary_key)
    return min(size, _LONGEST_TREE) if dialect in _WITHOUT_TUPLES else size


def _condition(mapper: Mapper[Any], keys: Sequence[Identity], dialect: str) -> ColumnElement[bool]:
    columns = [mapper.get_property_by_column(c).class_attribute for c in mapper.primary_key]
    if len(columns) == 1:
        single: ColumnElement[bool] = columns[0].in_([key[0] for key in keys])
        return single
    if dialect in _WITHOUT_TUPLES:
        return or_(*(and_(*map(_equal, columns, key)) for key in keys))
    condition: ColumnElement[bool] = tuple_(*columns).in_(keys)
    return condition


def _equal(column: Any, value: Any) -> ColumnElement[bool]:
    condition: ColumnElement[bool] = column == value
    return condition

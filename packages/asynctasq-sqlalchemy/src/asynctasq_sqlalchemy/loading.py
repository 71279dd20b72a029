"""Fetches rows for references: one query per model, and a separate instance for each place."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from asynctasq import InvalidReference, Ref
from sqlalchemy import ColumnElement, Select, and_, inspect, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.ext.horizontal_shard import ShardedSession, set_shard_id
from sqlalchemy.orm import Mapper, Session
from sqlalchemy.orm.attributes import instance_state
from sqlalchemy.sql.base import ExecutableOption

from .copies import copy_of, is_linked
from .factories import AnySession, factory_of, open_session
from .failures import explained
from .identity import sent_key
from .keys import Identity, key_of
from .options import ForUpdate, ReadFrom
from .sessions import close, current_scope

R = TypeVar("R")

#: Maximum number of bound parameters in a statement; 900 for databases not named here.
_PARAMETER_LIMIT = {"postgresql": 32_000, "mysql": 32_000, "mariadb": 32_000, "mssql": 2_000}
_OTHER_LIMIT = 900

#: Databases without `(a, b) IN ((1, 2), ...)`; their condition is a tree, kept flat enough.
_WITHOUT_TUPLES = {"mssql"}
_LONGEST_TREE = 200


async def fetch_many(refs: Sequence[Ref]) -> list[object | None]:
    """The rows of references to one model, database and options, in their order.

    With `for_update` in the options they belong to the running task's session. Otherwise the
    connection has been given back when this returns, and the instances are detached.

    Raises:
        ReferenceUnavailable: The database did not answer, or a lock could not be had.
        InvalidReference: A key cannot be one of the model, or there is no such shard.
        ConfigurationError: The model has no session factory.
    """
    model, options = refs[0].model_class(), refs[0].options
    mapper: Mapper[Any] = inspect(model)
    keys = [key_of(mapper).read(ref.pk) for ref in refs]
    lookup = _Lookup(mapper, keys, _query(model, options), refs[0].db)
    source = next((o.session_factory for o in options if isinstance(o, ReadFrom)), None)
    factory = source or factory_of(model)
    try:
        if refs[0].in_task_scope:
            return await work_in(current_scope().session(factory), lookup.rows)
        session = open_session(factory)
        try:
            return await work_in(session, lookup.own_rows)
        finally:
            await close(session)
    except Exception as e:
        error = explained(e, model)
        if error is e:
            raise
        raise error from e


async def work_in(session: AnySession, work: Callable[..., R], *args: Any) -> R:
    """Call `work` with the session's synchronous part without blocking the event loop."""
    if isinstance(session, AsyncSession):
        return await session.run_sync(work, *args)
    return await asyncio.to_thread(work, session, *args)


def _query(model: type, options: Sequence[Any]) -> Select[Any]:
    """The query without its condition; `asynctasq_fetch` marks it for listeners that hide rows."""
    query: Select[Any] = select(model).execution_options(asynctasq_fetch=True)
    query = query.options(*(o for o in options if isinstance(o, ExecutableOption)))
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


@dataclass(frozen=True, slots=True)
class _Lookup:
    """A query for the rows of some keys, to run in a session.

    Attributes:
        keys: Each as instances send it and as SQLAlchemy identifies a row; may repeat.
        query: The query without its condition.
        shard: The identity token of the rows, if the session has several databases.
    """

    mapper: Mapper[Any]
    keys: Sequence[tuple[Identity, Identity]]
    query: Select[Any]
    shard: str | None

    def own_rows(self, session: Session) -> list[object | None]:
        """Detached rows that share nothing with each other."""
        rows = self.rows(session)
        session.expunge_all()
        uses = Counter(map(id, rows))
        shared = {id(r) for r in rows if r is not None and (uses[id(r)] > 1 or is_linked(r))}
        if len(rows) == 1 or not shared:
            return rows
        return [copy_of(row) if id(row) in shared else row for row in rows]

    def rows(self, session: Session) -> list[object | None]:
        """The rows in the order of the keys; the same row for the same key."""
        dialect = self._dialect(session)
        identities = dict(self.keys)
        wanted = list(identities)
        found: dict[Identity, object] = {}
        for start in range(0, len(wanted), size := _chunk_size(dialect, self.mapper)):
            part = [identities[key] for key in wanted[start : start + size]]
            for row in self._select(session, dialect, part):
                found[sent_key(row)] = row
        strange = found.keys() - identities.keys()
        for key in wanted:
            # The database may store a key padded or in another case: look such rows up one by one.
            if strange and key not in found:
                for row in self._select(session, dialect, [identities[key]]):
                    found[key] = row
                    strange.discard(sent_key(row))
        return [found.get(key) for key, _ in self.keys]

    def _dialect(self, session: Session) -> str:
        if self.shard is None:
            return session.get_bind(mapper=self.mapper).dialect.name
        if isinstance(session, ShardedSession):
            try:
                return session.get_bind(mapper=self.mapper, shard_id=self.shard).dialect.name
            except KeyError as e:
                raise InvalidReference(f"there is no shard {self.shard[:50]!r}") from e
        name = self.mapper.class_.__qualname__
        raise InvalidReference(f"{name} has one database, there is no {self.shard[:50]!r}")

    def _select(self, session: Session, dialect: str, keys: Sequence[Identity]) -> list[object]:
        query = self.query.where(_condition(self.mapper, keys, dialect))
        if self.shard is not None:
            query = query.options(set_shard_id(self.shard))
        # With concrete inheritance the query also returns rows of other tables, whose keys are
        # numbered independently.
        space = self.mapper.identity_key_from_primary_key(keys[0])[0]
        return [row for row in session.scalars(query).unique() if _space(row) is space]


def _space(row: object) -> type:
    """The class within which the row's key is unique."""
    # `inspect` would find the same at ten times the cost.
    key = instance_state(row).key
    assert key is not None
    space: type = key[0]
    return space


def _chunk_size(dialect: str, mapper: Mapper[Any]) -> int:
    size = _PARAMETER_LIMIT.get(dialect, _OTHER_LIMIT) // len(mapper.primary_key)
    return min(size, _LONGEST_TREE) if dialect in _WITHOUT_TUPLES else size


def _condition(mapper: Mapper[Any], keys: Sequence[Identity], dialect: str) -> ColumnElement[bool]:
    # Columns, not attributes: the application may have changed how attributes compare.
    columns: list[ColumnElement[Any]]
    columns = [
        mapper.get_property_by_column(c).class_attribute.expression for c in mapper.primary_key
    ]
    whole = [key for key in keys if None not in key]
    conditions = [and_(*map(_equal, columns, key)) for key in keys if None in key]
    if len(columns) == 1:
        conditions.append(columns[0].in_([key[0] for key in whole]))
    elif dialect in _WITHOUT_TUPLES:
        conditions.extend(and_(*map(_equal, columns, key)) for key in whole)
    elif whole:
        conditions.append(tuple_(*columns).in_(whole))
    return or_(*conditions)


def _equal(column: ColumnElement[Any], value: Any) -> ColumnElement[bool]:
    # NULL in a key of several columns equals NULL, as for `Session.get`.
    return column.is_(None) if value is None else column == value

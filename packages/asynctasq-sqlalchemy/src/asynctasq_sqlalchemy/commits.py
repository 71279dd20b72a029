"""Sends after the commit: tracks what each session's transaction wrote and what waits for its end.

SQLAlchemy begins a transaction at the first SELECT, so an open transaction alone says nothing.
Listeners on the `Session` class record what each one flushed, by savepoint: a released savepoint
hands its records to the enclosing one, a rolled-back one forgets them. Waiting dispatches are sent
once the connection is back in its pool, so that an unreachable broker neither holds the connection
nor leaves the session half ended; the error then comes out of the user's `commit()`, whose data is
committed.

This module and `mapped_classes` are imported during the application's first import of SQLAlchemy,
so they must not use its `ext.asyncio`, which may be only half imported by then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from asynctasq import ConfigurationError, DeferredSend, DeferredSends, Statement
from sqlalchemy import Engine, event
from sqlalchemy.exc import MissingGreenlet
from sqlalchemy.orm import (
    InstanceState,
    Mapper,
    ORMExecuteState,
    Session,
    SessionTransaction,
    class_mapper,
)
from sqlalchemy.orm.attributes import instance_state
from sqlalchemy.util import await_only, greenlet_spawn

from .outbox import database_of, run

_RECORD = "asynctasq_sqlalchemy.record"
_CONNECTED = "asynctasq_sqlalchemy.connected"
_ATOMIC = "asynctasq_sqlalchemy.atomic"

#: A savepoint's transaction, or `None` for the outermost one.
Savepoint = SessionTransaction | None

#: A savepoint's record holds the keys of at most this many rows. Beyond that, every row of the
#: tables written counts as written, so that a transaction with a million rows costs no memory.
_MOST_KEYS = 10_000


@dataclass(slots=True)
class _Waiting:
    """A dispatch that waits for a session's commit.

    Attributes:
        savepoint: The savepoint in which it was called.
        mapper: The mapper of the instance it waits for; `None` if a session was named instead.
    """

    savepoint: Savepoint
    send: DeferredSend
    mapper: Mapper[Any] | None


@dataclass(slots=True)
class _Record:
    """What happened in one session since its transaction began.

    Attributes:
        written: By savepoint: keys of flushed rows, and tables that statements wrote.
        flushing: Instances that the current flush has inserted or is about to finish.
        waiting: Dispatches in the order of their calls.
        committed: Savepoints whose commit succeeded; they end next.
        kept: From just before the commit: what the transaction keeps in each database's outbox.
    """

    written: dict[Savepoint, set[Hashable]] = field(default_factory=dict)
    flushing: set[InstanceState[Any]] = field(default_factory=set)
    waiting: list[_Waiting] = field(default_factory=list)
    committed: set[Savepoint] = field(default_factory=set)
    kept: dict[Engine, DeferredSends] = field(default_factory=dict)

    def __del__(self) -> None:
        """Drop what waits for a session that was never closed and is now garbage."""
        self.drop()

    def drop(self) -> None:
        """Drop every waiting dispatch."""
        waiting, self.waiting = self.waiting, []
        for each in waiting:
            each.send.drop()
        for sends in self.kept.values():
            sends.drop()

    def note(self, savepoint: Savepoint, written: Collection[Hashable]) -> None:
        """Record what was written in a savepoint."""
        self.written.setdefault(savepoint, set()).update(written)

    def note_rows(self, savepoint: Savepoint, states: Collection[InstanceState[Any]]) -> None:
        """Record rows written in a savepoint, without keeping their instances alive."""
        if len(self.written.get(savepoint, ())) + len(states) <= _MOST_KEYS:
            self.note(savepoint, [state.key for state in states if state.key is not None])
        else:
            self.note(savepoint, {table for state in states for table in state.mapper.tables})


@dataclass(slots=True)
class _Atomic:
    """Marks a session's transaction as an atomic task's.

    Attributes:
        engine: The engine of the database that records that the task is done.
        is_over: Whether the task is over and the worker may commit.
    """

    engine: Engine
    is_over: bool = False


def watch() -> None:
    """Listen to every session of the process."""
    event.listen(Session, "after_begin", _note_connection)
    event.listen(Mapper, "after_insert", _note_insert, raw=True)
    event.listen(Session, "after_flush", _note_flush)
    event.listen(Session, "after_flush_postexec", _note_keys)
    event.listen(Session, "do_orm_execute", _note_statement)
    event.listen(Session, "before_commit", _keep)
    event.listen(Session, "after_commit", _note_commit)
    event.listen(Session, "after_transaction_end", _end)


def is_pending_write(obj: object) -> bool:
    """Whether the instance's session has uncommitted changes to its row.

    Changes that are not flushed yet count too: the next commit would write them.
    """
    state = instance_state(obj)
    session: Session | None = state.session
    if session is None:
        return False
    if state.modified and session.is_modified(obj):
        return True
    record: _Record | None = session.info.get(_RECORD)
    return record is not None and (
        state in record.flushing
        or any(
            state.key in written or not written.isdisjoint(state.mapper.tables)
            for written in record.written.values()
        )
    )


def was_inserted(state: InstanceState[Any]) -> bool:
    """Whether the current flush has inserted the row, which gets its identity when that ends."""
    record: _Record | None = state.session.info.get(_RECORD) if state.session else None
    return record is not None and state in record.flushing


def after_commit(session: Session, send: DeferredSend, mapper: Mapper[Any] | None = None) -> None:
    """Send once the session's transaction has committed; drop the dispatch on a rollback.

    A dispatch called inside a savepoint is dropped with the savepoint.

    Args:
        mapper: The mapper of the instance it waits for, if it waits for one.
    """
    waiting = _Waiting(session.get_nested_transaction(), send, mapper)
    _record(session).waiting.append(waiting)


def bind_atomic(session: Session, engine: Engine) -> None:
    """Mark the session's transaction as an atomic task's in this engine's database."""
    session.info[_ATOMIC] = _Atomic(engine)


def release_atomic(session: Session) -> None:
    """Allow the session to commit from now on."""
    session.info[_ATOMIC].is_over = True


def is_changed(obj: object) -> bool:
    """Whether a detached instance has changed attributes, which no commit would write."""
    state = instance_state(obj)
    return state.session is None and state.modified and Session().is_modified(obj)


def has_changes(session: Session) -> bool:
    """Whether the session holds uncommitted changes, flushed or not."""
    record: _Record | None = session.info.get(_RECORD)
    if record is not None and any(record.written.values()):
        return True
    return bool(session.new or session.deleted or any(map(session.is_modified, session.dirty)))


def is_unused(session: Session) -> bool:
    """Whether the session never connected, and nothing waits for its commit."""
    return _CONNECTED not in session.info and _RECORD not in session.info


def _record(session: Session) -> _Record:
    record: _Record = session.info.setdefault(_RECORD, _Record())
    return record


def _note_connection(session: Session, *_: object) -> None:
    session.info[_CONNECTED] = True


def _note_insert(_mapper: object, _connection: object, state: InstanceState[Any]) -> None:
    if state.session is not None:
        _record(state.session).flushing.add(state)


def _note_flush(session: Session, _: object) -> None:
    changed = [o for o in session.dirty if session.is_modified(o)]
    states = [instance_state(o) for o in (*session.new, *changed, *session.deleted)]
    if states:
        _record(session).flushing.update(states)


def _note_keys(session: Session, _: object) -> None:
    """Record keys at the end of a flush, when new rows have theirs."""
    record: _Record | None = session.info.get(_RECORD)
    if record is not None and record.flushing:
        record.note_rows(session.get_nested_transaction(), record.flushing)
        record.flushing.clear()


def _note_statement(execution: ORMExecuteState) -> None:
    if not (execution.is_insert or execution.is_update or execution.is_delete):
        return
    session, mapper = execution.session, execution.bind_mapper
    tables = mapper.tables if mapper is not None else _tables(execution.statement)
    _record(session).note(session.get_nested_transaction(), tables)


def _tables(statement: Any) -> list[Any]:
    """The tables that a Core statement writes; not every statement class has the attribute."""
    table = getattr(statement, "table", None)
    return [] if table is None else [table]


def _keep(session: Session) -> None:
    """Just before the commit, write waiting dispatches to the outbox, if there is one."""
    atomic: _Atomic | None = session.info.get(_ATOMIC)
    if atomic is not None and not atomic.is_over and not session.in_nested_transaction():
        raise ConfigurationError(
            "an atomic task cannot commit its session: the worker does, when the task has ended. "
            "Let it flush() instead, use begin_nested() for a part that may fail, or declare the "
            "task without atomic"
        )
    record: _Record | None = session.info.get(_RECORD)
    if record is None or not record.waiting or session.in_nested_transaction():
        return
    session.flush()  # its listeners may dispatch as well
    waiting, record.waiting = record.waiting, []
    by_mapper: dict[Mapper[Any] | None, DeferredSends] = {}
    for each in waiting:
        if (sends := by_mapper.get(each.mapper)) is None:
            engine = atomic.engine if atomic is not None and each.mapper is None else None
            engine = engine or _engine(session, each.mapper)
            if engine not in record.kept:
                record.kept[engine] = DeferredSends("sqlalchemy", database_of(engine))
            sends = by_mapper[each.mapper] = record.kept[engine]
        sends.add(each.send)
    for engine, sends in record.kept.items():
        _keep_in(session, engine, sends)


def _keep_in(session: Session, engine: Engine, sends: DeferredSends) -> None:
    """Keep waiting dispatches in the session's transaction on this engine."""

    def run_in(statement: Statement) -> Sequence[Sequence[Any]]:
        return run(session.connection(bind_arguments={"bind": engine}), statement)

    async def run_on_loop(statement: Statement) -> Sequence[Sequence[Any]]:
        rows: Sequence[Sequence[Any]] = await greenlet_spawn(run_in, statement)
        return rows

    if engine.dialect.is_async:
        await_only(sends.keep_async(run_on_loop))
    else:
        sends.keep(run_in)


def engine_of(session: Session, model: type | None) -> Engine:
    """The engine of a model's database, or of the session's only one."""
    return _engine(session, None if model is None else class_mapper(model))


def _engine(session: Session, mapper: Mapper[Any] | None) -> Engine:
    """The engine whose database a dispatch belongs to."""
    if mapper is None and session.bind is None:
        # The session chooses its database by model, so take that of any row in it.
        mapper = next((instance_state(o).mapper for o in session), None)
    return session.get_bind(mapper).engine


def _note_commit(session: Session) -> None:
    record: _Record | None = session.info.get(_RECORD)
    if record is not None:
        record.committed.add(session.get_nested_transaction())


def _end(session: Session, transaction: SessionTransaction) -> None:
    record: _Record | None = session.info.get(_RECORD)
    is_outermost = transaction.parent is None
    if record is None:
        return
    record.flushing.clear()  # a flush that failed ends here too: it has its own transaction
    if not (is_outermost or transaction.nested):
        return
    savepoint = None if is_outermost else transaction
    if is_outermost:
        del session.info[_RECORD]
    if savepoint not in record.committed:
        _forget(record, savepoint)
    elif savepoint is not None:
        _hand_over(record, savepoint)
    else:
        kept, record.kept = list(record.kept.values()), {}
        _send(kept)


def _forget(record: _Record, savepoint: Savepoint) -> None:
    if savepoint is None:
        record.drop()
        return
    record.written.pop(savepoint, None)
    remaining = []
    for each in record.waiting:
        if each.savepoint is savepoint:
            each.send.drop()
        else:
            remaining.append(each)
    record.waiting = remaining


def _hand_over(record: _Record, savepoint: SessionTransaction) -> None:
    outer = savepoint.parent
    while outer is not None and not outer.nested:
        outer = outer.parent
    record.committed.discard(savepoint)
    record.note(outer, record.written.pop(savepoint, ()))
    for each in record.waiting:
        if each.savepoint is savepoint:
            each.savepoint = outer


def _send(kept: Sequence[DeferredSends]) -> None:
    """Send everything that waited, database by database, then raise the first error."""
    errors = []
    for sends in kept:
        if not sends:
            continue
        try:
            await_only(_send_on_loop(sends))
        except MissingGreenlet:  # a synchronous session's commit
            errors += _errors_of(sends)
        except Exception as e:  # noqa: BLE001 - raised once all have been tried
            errors.append(e)
    if errors:
        raise errors[0]


async def _send_on_loop(sends: DeferredSends) -> None:
    """Send even if the code that commits is cancelled."""
    await asyncio.shield(sends.send_async())


def _errors_of(sends: DeferredSends) -> list[Exception]:
    try:
        sends.send()
    except Exception as e:  # noqa: BLE001 - raised once all have been tried
        return [e]
    return []

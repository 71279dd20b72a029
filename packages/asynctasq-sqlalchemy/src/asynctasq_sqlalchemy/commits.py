"""Sending after the commit: what each session's open transaction wrote, and what waits for its end.

SQLAlchemy begins a transaction at the first SELECT, so an open transaction says nothing. Listeners
on the `Session` class record what was flushed in each, by savepoint: a released savepoint hands its
records to the enclosing one, a rolled-back one forgets them. What waits is sent once the connection
has gone back to its pool, so that an unreachable broker neither holds it nor leaves the session in
a state between; the error then comes out of the user's `commit()`, whose data is committed.

Imported in the middle of the application's first import of SQLAlchemy, when its `ext.asyncio` may
be half there: this module and `models` do without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from asynctasq import DeferredSend, send_together, send_together_async
from sqlalchemy import event
from sqlalchemy.exc import MissingGreenlet
from sqlalchemy.orm import InstanceState, Mapper, ORMExecuteState, Session, SessionTransaction
from sqlalchemy.orm.attributes import instance_state
from sqlalchemy.util import await_only

_RECORD = "asynctasq_sqlalchemy.record"
_CONNECTED = "asynctasq_sqlalchemy.connected"

#: A savepoint's transaction, or `None` for the outermost one.
Savepoint = SessionTransaction | None

#: Of so many rows a savepoint's record holds the keys; of the tables of all others that it wrote,
#: every row counts as written, so that a transaction with a million rows costs no memory.
_MOST_KEYS = 10_000


@dataclass(slots=True)
class _Record:
    """What happened in one session since its transaction began.

    Attributes:
        written: By savepoint: keys of rows that were flushed, tables that statements wrote.
        flushing: Instances that the flush under way has inserted or is about to be done with.
        waiting: Dispatches in the order in which they were called, each with its savepoint.
        committed: Savepoints whose commit succeeded; they end next.
    """

    written: dict[Savepoint, set[Hashable]] = field(default_factory=dict)
    flushing: set[InstanceState[Any]] = field(default_factory=set)
    waiting: list[tuple[Savepoint, DeferredSend]] = field(default_factory=list)
    committed: set[Savepoint] = field(default_factory=set)

    def __del__(self) -> None:
        """Drop what waits for a session that nobody closed and nobody holds any more."""
        for _, send in self.waiting:
            send.drop()

    def note(self, savepoint: Savepoint, written: Collection[Hashable]) -> None:
        """Record what was written in a savepoint."""
        self.written.setdefault(savepoint, set()).update(written)

    def note_rows(self, savepoint: Savepoint, states: Collection[InstanceState[Any]]) -> None:
        """Record rows that were written in a savepoint; their instances may be forgotten."""
        if len(self.written.get(savepoint, ())) + len(states) <= _MOST_KEYS:
            self.note(savepoint, [state.key for state in states if state.key is not None])
        else:
            self.note(savepoint, {table for state in states for table in state.mapper.tables})


def watch() -> None:
    """Listen to every session of the process."""
    event.listen(Session, "after_begin", _note_connection)
    event.listen(Mapper, "after_insert", _note_insert, raw=True)
    event.listen(Session, "after_flush", _note_flush)
    event.listen(Session, "after_flush_postexec", _note_keys)
    event.listen(Session, "do_orm_execute", _note_statement)
    event.listen(Session, "after_commit", _note_commit)
    event.listen(Session, "after_transaction_end", _end)


def is_pending_write(obj: object) -> bool:
    """Whether the instance's session has changes of its row that are not committed yet.

    Changes that were not flushed yet count: the next commit would write them.
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
    """Whether the flush under way has inserted the row, which has no identity before its end."""
    record: _Record | None = state.session.info.get(_RECORD) if state.session else None
    return record is not None and state in record.flushing


def after_commit(session: Session, send: DeferredSend) -> None:
    """Send once the session's transaction has committed; drop it when that is rolled back.

    What is called inside a savepoint is dropped with the savepoint.
    """
    _record(session).waiting.append((session.get_nested_transaction(), send))


def is_changed(obj: object) -> bool:
    """Whether attributes of a detached instance were changed, which no commit would write."""
    state = instance_state(obj)
    return state.session is None and state.modified and Session().is_modified(obj)


def has_changes(session: Session) -> bool:
    """Whether the session holds changes, flushed or not, that were not committed."""
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
    """At the end of a flush, when rows that are new have got their keys."""
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
    """The table that a statement of Core writes, which its class may not have as an attribute."""
    table = getattr(statement, "table", None)
    return [] if table is None else [table]


def _note_commit(session: Session) -> None:
    record: _Record | None = session.info.get(_RECORD)
    if record is not None:
        record.committed.add(session.get_nested_transaction())


def _end(session: Session, transaction: SessionTransaction) -> None:
    record: _Record | None = session.info.get(_RECORD)
    is_outermost = transaction.parent is None
    if record is None:
        return
    record.flushing.clear()  # also of a flush that failed, which has a transaction of its own
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
        sends, record.waiting = [send for _, send in record.waiting], []
        _send(sends)


def _forget(record: _Record, savepoint: Savepoint) -> None:
    record.written.pop(savepoint, None)
    for place, send in record.waiting:
        if place is savepoint:
            send.drop()
    record.waiting = [(place, send) for place, send in record.waiting if place is not savepoint]


def _hand_over(record: _Record, savepoint: SessionTransaction) -> None:
    outer = savepoint.parent
    while outer is not None and not outer.nested:
        outer = outer.parent
    record.committed.discard(savepoint)
    record.note(outer, record.written.pop(savepoint, ()))
    record.waiting = [
        (outer if place is savepoint else place, send) for place, send in record.waiting
    ]


def _send(sends: Sequence[DeferredSend]) -> None:
    """Send all of a transaction in one round trip; the first error is raised then."""
    if not sends:
        return
    try:
        await_only(_send_on_loop(sends))
    except MissingGreenlet:  # a synchronous session's commit
        send_together(sends)


async def _send_on_loop(sends: Sequence[DeferredSend]) -> None:
    """What is committed is sent, also when the code that committed is cancelled meanwhile."""
    await asyncio.shield(send_together_async(sends))

"""Sending after the commit: of what was written, not of what was read; never after a rollback."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from asynctasq import BrokerUnavailable, ConfigurationError
from asynctasq_sqlalchemy import adapter, commits
from sashop import Cat, Item, Order, User
from sqlalchemy import insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from .stores import Store


@dataclass
class Sends:
    """Records what became of deferred dispatches, in order."""

    log: list[str] = field(default_factory=list)

    def add(self, name: str, fails: bool = False) -> Send:
        return Send(self, name, fails)


@dataclass
class Send:
    """A deferred dispatch, as core makes one."""

    sends: Sends
    name: str
    fails: bool

    def __call__(self) -> None:
        self.sends.log.append(f"sent {self.name}")
        if self.fails:
            raise BrokerUnavailable(self.name)

    async def send_async(self) -> None:
        await asyncio.sleep(0)
        self()

    def drop(self) -> None:
        self.sends.log.append(f"dropped {self.name}")


@pytest.fixture
def sends() -> Sends:
    return Sends()


@pytest.fixture
def session(lite: Store) -> Iterator[Session]:
    """A synchronous session; user 1 is in the database."""
    lite.add(User(id=1, name="Ann"))
    with lite.setup() as opened:
        yield opened


def new_user(session: Session, name: str = "Bob") -> User:
    user = User(name=name)
    session.add(user)
    session.flush()
    return user


def test_a_row_that_was_only_read_is_not_pending(session: Session) -> None:
    user = session.get_one(User, 1)
    assert session.in_transaction()
    assert not adapter.is_pending_write(user)


def test_a_detached_row_is_not_pending(session: Session) -> None:
    user = session.get_one(User, 1)
    session.expunge(user)
    assert not adapter.is_pending_write(user)


def test_a_flushed_insert_is_pending_until_the_commit(session: Session) -> None:
    user = new_user(session)
    assert adapter.is_pending_write(user)
    assert not adapter.is_pending_write(session.get_one(User, 1))
    session.commit()
    assert not adapter.is_pending_write(user)


def test_a_change_is_pending_before_and_after_its_flush(session: Session) -> None:
    user = session.get_one(User, 1)
    user.name = "Zoe"
    assert adapter.is_pending_write(user)
    session.flush()
    assert adapter.is_pending_write(user)
    session.rollback()
    assert not adapter.is_pending_write(user)


def test_setting_the_value_that_is_there_already_is_no_write(session: Session) -> None:
    user = session.get_one(User, 1)
    user.name = user.name
    assert not adapter.is_pending_write(user)
    session.flush()
    assert not adapter.is_pending_write(user)


def test_a_write_of_another_row_does_not_make_a_read_row_pending(session: Session) -> None:
    user = session.get_one(User, 1)
    order = Order(user_id=1)
    session.add(order)
    session.flush()
    assert adapter.is_pending_write(order)
    assert not adapter.is_pending_write(user)


@pytest.mark.parametrize(
    "statement",
    [
        update(User).values(name="Zoe"),
        update(User.__table__).values(name="Zoe"),  # type: ignore[arg-type]
    ],
)
def test_rows_of_a_table_that_a_statement_wrote_are_pending(
    session: Session, statement: Any
) -> None:
    user = session.get_one(User, 1)
    session.execute(statement)
    assert adapter.is_pending_write(user)
    session.commit()
    assert not adapter.is_pending_write(user)


def test_a_row_that_an_insert_statement_returned_is_pending(session: Session) -> None:
    (item,) = session.scalars(insert(Item).returning(Item), [{"name": "x"}])
    assert adapter.is_pending_write(item)
    cat = Cat()
    session.add(cat)
    session.commit()
    assert not adapter.is_pending_write(item)


def test_a_statement_that_reads_or_is_text_writes_nothing_we_know_of(session: Session) -> None:
    user = session.get_one(User, 1)
    session.scalars(select(User)).all()
    session.execute(text("UPDATE users SET name = 'x'"))
    assert not adapter.is_pending_write(user)


def test_sends_follow_the_commit_in_the_order_of_calls(session: Session, sends: Sends) -> None:
    user = new_user(session)
    for name in "abc":
        adapter.after_commit(user, sends.add(name))
    assert sends.log == []
    session.commit()
    assert sends.log == ["sent a", "sent b", "sent c"]
    session.commit()
    assert len(sends.log) == 3


def test_the_connection_is_free_and_the_row_visible_when_the_sends_go_out(
    lite: Store, session: Session
) -> None:
    seen: list[object] = []

    class Look:
        def __call__(self) -> None:
            with lite.setup() as other:
                other.add(Item(name="the database is not locked"))
                other.commit()
                seen.extend(other.scalars(select(User.name).where(User.name == "Bob")))
            seen.append(session.in_transaction())

    adapter.after_commit(new_user(session), Look())  # type: ignore[arg-type]
    session.commit()
    assert seen == ["Bob", False]


@pytest.mark.parametrize("end", ["rollback", "close"])
def test_sends_are_dropped_without_a_commit(session: Session, sends: Sends, end: str) -> None:
    adapter.after_commit(new_user(session), sends.add("a"))
    getattr(session, end)()
    assert sends.log == ["dropped a"]
    session.commit()
    assert sends.log == ["dropped a"]


def test_a_failed_flush_drops_what_waited(session: Session, sends: Sends) -> None:
    adapter.after_commit(new_user(session), sends.add("a"))
    session.add(User(id=1, name="double"))
    with pytest.raises(Exception, match="UNIQUE"):
        session.commit()
    session.rollback()
    assert sends.log == ["dropped a"]


def test_a_released_savepoint_hands_over_to_the_transaction(session: Session, sends: Sends) -> None:
    with session.begin_nested():
        user = new_user(session)
        adapter.after_commit(user, sends.add("inner"))
    assert sends.log == []
    assert adapter.is_pending_write(user)
    adapter.after_commit(user, sends.add("outer"))
    session.commit()
    assert sends.log == ["sent inner", "sent outer"]


def test_a_rolled_back_savepoint_drops_its_own_only(session: Session, sends: Sends) -> None:
    ann = session.get_one(User, 1)
    adapter.after_commit(new_user(session), sends.add("before"))
    savepoint = session.begin_nested()
    ann.name = "Zoe"
    session.flush()
    adapter.after_commit(ann, sends.add("inside"))
    savepoint.rollback()
    assert sends.log == ["dropped inside"]
    assert not adapter.is_pending_write(ann)
    adapter.after_commit(new_user(session), sends.add("after"))
    session.commit()
    assert sends.log == ["dropped inside", "sent before", "sent after"]


def test_savepoints_in_savepoints_belong_to_their_parent(session: Session, sends: Sends) -> None:
    outer = session.begin_nested()
    with session.begin_nested():
        adapter.after_commit(new_user(session), sends.add("innermost"))
    adapter.after_commit(new_user(session), sends.add("outer"))
    outer.rollback()
    assert sends.log == ["dropped innermost", "dropped outer"]
    session.commit()
    assert len(sends.log) == 2


def test_a_commit_with_open_savepoints_sends_everything(session: Session, sends: Sends) -> None:
    session.begin_nested()
    session.begin_nested()
    adapter.after_commit(new_user(session), sends.add("a"))
    session.commit()
    while session.in_transaction():
        session.commit()
    assert sends.log == ["sent a"]


def test_a_rollback_of_everything_drops_what_released_savepoints_held(
    session: Session, sends: Sends
) -> None:
    with session.begin_nested():
        adapter.after_commit(new_user(session), sends.add("a"))
    session.rollback()
    assert sends.log == ["dropped a"]


def test_an_unreachable_broker_is_reported_by_the_commit_and_leaves_the_session_usable(
    session: Session, sends: Sends
) -> None:
    user = new_user(session)
    adapter.after_commit(user, sends.add("a", fails=True))
    adapter.after_commit(user, sends.add("b"))
    with pytest.raises(BrokerUnavailable, match="a"):
        session.commit()
    assert sends.log == ["sent a", "sent b"]
    assert session.scalars(select(User.name)).all() == ["Ann", "Bob"]
    session.commit()


def test_a_transaction_block_reports_an_unreachable_broker_too(lite: Store, sends: Sends) -> None:
    with lite.setup() as session:
        with pytest.raises(BrokerUnavailable), session.begin():
            adapter.after_commit(new_user(session), sends.add("a", fails=True))
        assert session.scalars(select(User.name)).all() == ["Bob"]


def test_a_dispatch_may_be_tied_to_a_session_without_a_transaction(
    session: Session, sends: Sends
) -> None:
    adapter.after_commit(session, sends.add("a"))
    session.execute(insert(User), [{"name": "Bob"}])
    assert sends.log == []
    session.commit()
    assert sends.log == ["sent a"]


def test_an_instance_that_has_left_its_session_cannot_wait(session: Session, sends: Sends) -> None:
    user = new_user(session)
    session.expunge(user)
    with pytest.raises(ConfigurationError, match="no session"):
        adapter.after_commit(user, sends.add("a"))


async def test_sessions_of_every_kind_are_recognised(lite: Store) -> None:
    scoped = scoped_session(lite.setup)
    async_scoped = async_scoped_session(lite.factory, asyncio.current_task)
    async with lite.factory() as async_session:
        for target in (lite.setup(), scoped, async_session, async_scoped):
            assert adapter.owns_transaction(target) is True
    for other in (None, "default", lite.engine, object()):
        assert adapter.owns_transaction(other) is False
    scoped.remove()
    await async_scoped.remove()


async def test_an_async_session_awaits_the_sends_inside_its_commit(
    async_store: Store, sends: Sends
) -> None:
    async with async_store.factory() as session:
        user = User(name="Bob")
        session.add(user)
        await session.flush()
        assert adapter.is_pending_write(user)
        adapter.after_commit(user, sends.add("a"))
        adapter.after_commit(session, sends.add("b"))
        await session.commit()
    assert sends.log == ["sent a", "sent b"]


async def test_async_savepoints_rollbacks_and_blocks_behave_alike(
    async_store: Store, sends: Sends
) -> None:
    async with async_store.factory() as session:
        async with session.begin():
            async with session.begin_nested():
                await add(session, sends, "released")
            savepoint = await session.begin_nested()
            await add(session, sends, "rolled back")
            await savepoint.rollback()
        assert sends.log == ["dropped rolled back", "sent released"]
        await add(session, sends, "closed")
    assert sends.log[2:] == ["dropped closed"]


async def add(session: AsyncSession, sends: Sends, name: str) -> None:
    user = User(name=name)
    session.add(user)
    await session.flush()
    adapter.after_commit(user, sends.add(name))


async def test_a_cancelled_commit_still_sends_what_it_committed(lite: Store) -> None:
    started, finish = asyncio.Event(), asyncio.Event()
    finished = asyncio.Event()

    class Slow:
        async def send_async(self) -> None:
            started.set()
            await finish.wait()
            finished.set()

    async def work() -> None:
        async with lite.factory() as session:
            user = User(name="Bob")
            session.add(user)
            await session.flush()
            adapter.after_commit(user, Slow())  # type: ignore[arg-type]
            await session.commit()

    task = asyncio.create_task(work())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    finish.set()
    await asyncio.wait_for(finished.wait(), 10)


async def test_an_async_commit_reports_an_unreachable_broker(lite: Store, sends: Sends) -> None:
    async with lite.factory() as session:
        user = User(name="Bob")
        session.add(user)
        await session.flush()
        adapter.after_commit(user, sends.add("a", fails=True))
        adapter.after_commit(user, sends.add("b"))
        with pytest.raises(BrokerUnavailable):
            await session.commit()
        assert sends.log == ["sent a", "sent b"]
        assert (await session.scalars(select(User.name))).all() == ["Bob"]


def test_two_phase_commits_send_too(maria: Store, sends: Sends) -> None:
    with maria.factory(twophase=True) as session:
        adapter.after_commit(new_user(session), sends.add("a"))
        session.prepare()
        assert sends.log == []
        session.commit()
    assert sends.log == ["sent a"]


def test_a_session_that_is_forgotten_drops_what_waited(lite: Store, sends: Sends) -> None:
    def forget() -> None:
        session = Session(lite.setup.kw["bind"], autoflush=False)
        adapter.after_commit(session, sends.add("a"))

    forget()
    gc.collect()
    assert sends.log == ["dropped a"]


def test_a_row_is_pending_when_its_instance_was_forgotten_and_loaded_anew(session: Session) -> None:
    key = new_user(session).id
    gc.collect()
    user = session.get_one(User, key)
    assert adapter.is_pending_write(user)
    session.commit()
    assert not adapter.is_pending_write(user)


def test_many_thousand_written_rows_are_remembered_by_their_table(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "_MOST_KEYS", 5)
    user = session.get_one(User, 1)
    for i in range(3):
        session.add_all(Item(name=f"{i}.{j}") for j in range(3))
        session.flush()
    gc.collect()
    (written,) = session.info[commits._RECORD].written.values()
    assert len(written) == 4
    assert all(adapter.is_pending_write(item) for item in session.scalars(select(Item)))
    assert not adapter.is_pending_write(user)


def test_instances_are_not_kept_alive_by_the_record(session: Session) -> None:
    import weakref

    user = new_user(session)
    state = weakref.ref(user.__dict__["_sa_instance_state"])
    del user
    gc.collect()
    assert state() is None

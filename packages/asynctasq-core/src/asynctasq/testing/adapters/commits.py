"""Dispatches in open transactions: sent after the commit, never after a rollback."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

from asynctasq import AsynctasqError, BrokerUnavailable, TaskHandle, TaskStatus, init, task

from .application import ApplicationUnderTest, RolledBack, Seen, needs

#: How long an answer may take in the test of a broker that never answers.
BROKER_TIMEOUT = 1.0


@dataclass
class _Send:
    """The suite's own waiting dispatch, which records what becomes of it."""

    log: list[str]
    name: str
    fails: bool = False

    def __call__(self) -> None:
        self.log.append(self.name)
        if self.fails:
            raise BrokerUnavailable(self.name)

    async def send_async(self) -> None:
        self()

    def drop(self) -> None:
        self.log.append(f"{self.name} dropped")


class CommitsTests(ApplicationUnderTest):
    """`is_pending_write`, `after_commit`, `owns_transaction` and `open_transaction`."""

    async def _is_sent(self, handle: TaskHandle[Any]) -> bool:
        status = await handle.status()
        assert status in (TaskStatus.WAITING, TaskStatus.UNCOMMITTED), status
        return status is TaskStatus.WAITING

    @needs("transactions")
    async def test_a_row_of_an_open_transaction_is_sent_at_its_commit(self) -> None:
        seen, states = Seen(), list[str]()

        async def scenario() -> TaskHandle[Any]:
            async with self.within(self.transaction()) as transaction:
                row = await self.call(self.write, transaction, "Ada")
                handle = await self.dispatch(seen.task()(row))
                states.append(handle._deferred.state if handle._deferred else "sent")
            return handle

        handle = await self.run(scenario)
        assert states == ["waiting"], "sent before the commit"
        assert handle.id
        assert await self._is_sent(handle), "not sent after the commit"
        await self.work()
        assert seen.names == ["Ada"]

    @needs("transactions")
    async def test_nothing_is_sent_after_a_rollback(self) -> None:
        seen, handles = Seen(), list[TaskHandle[Any]]()

        async def scenario() -> None:
            with suppress(RolledBack):
                async with self.within(self.transaction()) as transaction:
                    row = await self.call(self.write, transaction, "Ada")
                    handles.append(await self.dispatch(seen.task()(row)))
                    raise RolledBack

        await self.run(scenario)
        assert await handles[0].status() == TaskStatus.DROPPED
        await self.work()
        assert seen.names == []

    @needs("transactions")
    async def test_a_row_that_a_transaction_only_read_is_sent_at_once(self) -> None:
        seen, states = Seen(), list[bool]()
        saved = await self.call(self.save, "Ada")

        async def scenario() -> None:
            async with self.within(self.transaction()) as transaction:
                row = await self.call(self.read, transaction, saved)
                handle = await self.dispatch(seen.task()(row))
                states.append(handle._deferred is None)

        await self.run(scenario)
        assert states == [True]
        await self.work()
        assert seen.names == ["Ada"]

    @needs("transactions")
    async def test_a_row_saved_and_committed_before_is_sent_at_once(self) -> None:
        [handle] = await self.send(Seen().task()(await self.call(self.save, "Ada")))
        assert handle._deferred is None
        assert await self._is_sent(handle)

    @needs("transactions")
    async def test_the_next_transaction_starts_clean(self) -> None:
        states = list[bool]()

        async def scenario() -> None:
            async with self.within(self.transaction()) as transaction:
                written = await self.call(self.write, transaction, "Ada")
            async with self.within(self.transaction()) as transaction:
                row = await self.call(self.read, transaction, written)
                states.append((await self.dispatch(Seen().task()(row)))._deferred is None)
            with suppress(RolledBack):
                async with self.within(self.transaction()) as transaction:
                    await self.call(self.write, transaction, "Grace")
                    raise RolledBack
            async with self.within(self.transaction()) as transaction:
                row = await self.call(self.read, transaction, written)
                states.append((await self.dispatch(Seen().task()(row)))._deferred is None)

        await self.run(scenario)
        assert states == [True, True]

    @needs("transactions")
    async def test_dispatches_leave_in_the_order_of_their_calls(self) -> None:
        ran = list[int]()

        async def note(number: int, row: Any) -> None:
            ran.append(number)

        note_task = task(name=f"note-{uuid4().hex}")(note)

        async def scenario() -> None:
            async with self.within(self.transaction()) as transaction:
                rows = [await self.call(self.write, transaction, f"name {i}") for i in range(3)]
                for number in range(12):
                    await self.dispatch(note_task(number, rows[number % 3]))

        await self.run(scenario)
        await self.work(concurrency=1)
        assert ran == list(range(12))

    @needs("transactions")
    async def test_a_send_that_fails_keeps_back_no_other_and_spoils_no_later_commit(self) -> None:
        log = list[str]()
        defer = self.hooks.after_commit
        assert defer is not None

        async def scenario(*sends: _Send) -> None:
            async with self.within(self.transaction()) as transaction:
                row = await self.call(self.write, transaction, "Ada")
                for send in sends:
                    await self.call(defer, row, send)

        with suppress(BrokerUnavailable):
            sends = [_Send(log, "a"), _Send(log, "b", fails=True), _Send(log, "c")]
            await self.run(lambda: scenario(*sends))
        assert log == ["a", "b", "c"]
        await self.run(lambda: scenario(_Send(log, "d")))
        assert log == ["a", "b", "c", "d"]

    @needs("transactions")
    async def test_a_commit_waits_once_for_a_broker_that_gives_no_answer(self) -> None:
        handles = list[TaskHandle[Any]]()

        async def scenario() -> None:
            async with self.within(self.transaction()) as transaction:
                row = await self.call(self.write, transaction, "Ada")
                for _ in range(5):
                    handles.append(await self.dispatch(Seen().task()(row)))

        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
            redis = {"url": url, "timeout": BROKER_TIMEOUT, "connect_timeout": BROKER_TIMEOUT}
            init(driver="redis", redis=redis, **self.options())
            started = time.monotonic()
            with pytest.raises(BrokerUnavailable):
                await self.run(scenario)
            waited = time.monotonic() - started
            init(driver="memory", **self.options())
        assert [h._deferred and h._deferred.state for h in handles] == ["failed"] * 5
        assert waited < 3 * BROKER_TIMEOUT

    @needs("transactions")
    async def test_on_commit_false_sends_now(self) -> None:
        states = list[bool]()

        async def scenario() -> None:
            async with self.within(self.transaction()) as transaction:
                row = await self.call(self.write, transaction, "Ada")
                handle = await self.dispatch(Seen().task()(row).on_commit(False))
                states.append(handle._deferred is None)

        await self.run(scenario)
        assert states == [True]

    @needs("context_transactions")
    async def test_on_commit_ties_a_call_without_rows_to_the_open_transaction(self) -> None:
        handles = list[TaskHandle[Any]]()

        async def scenario() -> None:
            async with self.within(self.transaction()):
                handles.append(await self.dispatch(_no_rows(1).on_commit()))
            with suppress(RolledBack):
                async with self.within(self.transaction()):
                    handles.append(await self.dispatch(_no_rows(2).on_commit()))
                    raise RolledBack
            handles.append(await self.dispatch(_no_rows(3).on_commit()))

        await self.run(scenario)
        assert [await h.status() for h in handles] == [
            TaskStatus.WAITING,
            TaskStatus.DROPPED,
            TaskStatus.WAITING,
        ]
        assert handles[0]._deferred is not None

    @needs("transactions")
    async def test_on_commit_of_a_transaction_ties_a_call_without_rows_to_it(self) -> None:
        if self.hooks.owns_transaction is None:
            return
        handles = list[TaskHandle[Any]]()

        async def scenario() -> None:
            async with self.within(self.transaction()) as transaction:
                handles.append(await self.dispatch(_no_rows(1).on_commit(transaction)))
                handles.append(await self.dispatch(_no_rows(2)))
            with suppress(RolledBack):
                async with self.within(self.transaction()) as transaction:
                    handles.append(await self.dispatch(_no_rows(3).on_commit(transaction)))
                    raise RolledBack

        await self.run(scenario)
        assert [h._deferred and h._deferred.state for h in handles] == ["sent", None, "dropped"]

    @needs("transactions_end")
    async def test_on_commit_of_a_transaction_that_has_ended_is_refused_or_sent_at_once(
        self,
    ) -> None:
        if self.hooks.owns_transaction is None or not self.transactions:
            pytest.skip("the adapter owns no transactions")
        outcomes = list[str]()

        async def scenario() -> None:
            async with self.within(self.transaction()) as committed:
                pass
            with suppress(RolledBack):
                async with self.within(self.transaction()) as rolled_back:
                    raise RolledBack
            for number, ended in enumerate([committed, rolled_back]):
                try:
                    handle = await self.dispatch(_no_rows(number).on_commit(ended))
                except AsynctasqError:
                    outcomes.append("refused")
                else:
                    outcomes.append(handle._deferred.state if handle._deferred else "sent")

        await self.run(scenario)
        assert set(outcomes) <= {"refused", "sent"}, "waits for a commit that never comes"

    @needs("transactions")
    async def test_it_owns_no_strange_transactions(self) -> None:
        owns = self.hooks.owns_transaction
        assert owns is None or not any(owns(other) for other in (object(), 1, "no such thing"))

    @needs("savepoints")
    async def test_a_savepoint_that_is_released_waits_for_the_commit(self) -> None:
        seen, states = Seen(), list[str]()

        async def scenario() -> TaskHandle[Any]:
            async with self.within(self.transaction()) as transaction:
                async with self.within(self.savepoint(transaction)):
                    row = await self.call(self.write, transaction, "Ada")
                    handle = await self.dispatch(seen.task()(row))
                states.append(handle._deferred.state if handle._deferred else "sent at once")
            return handle

        handle = await self.run(scenario)
        assert states == ["waiting"]
        assert await self._is_sent(handle)
        await self.work()
        assert seen.names == ["Ada"]

    @needs("savepoints")
    async def test_a_savepoint_that_is_rolled_back_drops_what_was_dispatched_in_it(self) -> None:
        seen, handles = Seen(), list[TaskHandle[Any]]()
        read = seen.task()

        async def scenario() -> None:
            async with self.within(self.transaction()) as transaction:
                before = await self.call(self.write, transaction, "before")
                handles.append(await self.dispatch(read(before)))
                with suppress(RolledBack):
                    async with self.within(self.savepoint(transaction)):
                        lost = await self.call(self.write, transaction, "lost")
                        handles.append(await self.dispatch(read(lost)))
                        raise RolledBack
                after = await self.call(self.write, transaction, "after")
                handles.append(await self.dispatch(read(after)))

        await self.run(scenario)
        assert [h._deferred and h._deferred.state for h in handles] == ["sent", "dropped", "sent"]
        await self.work(concurrency=1)
        assert seen.names == ["before", "after"]

    @needs("savepoints")
    async def test_the_rollback_of_the_whole_drops_what_a_released_savepoint_held(self) -> None:
        handles = list[TaskHandle[Any]]()

        async def scenario() -> None:
            with suppress(RolledBack):
                async with self.within(self.transaction()) as transaction:
                    async with self.within(self.savepoint(transaction)):
                        row = await self.call(self.write, transaction, "Ada")
                        handles.append(await self.dispatch(Seen().task()(row)))
                    raise RolledBack

        await self.run(scenario)
        assert await handles[0].status() == TaskStatus.DROPPED


@task(name="asynctasq.testing.no_rows")
async def _no_rows(number: int) -> None: ...

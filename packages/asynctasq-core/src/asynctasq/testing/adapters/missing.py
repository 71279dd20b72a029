"""Deleted rows and unreachable databases, which have different outcomes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any
from uuid import uuid4

import pytest

from asynctasq import OnMissing, ReferenceUnavailable, TaskStatus, task
from asynctasq.deadletters import list_dead

from .application import ApplicationUnderTest, Seen, needs


class MissingTests(ApplicationUnderTest):
    """What becomes of a task whose row cannot be fetched."""

    async def test_a_row_that_is_gone_fails_the_task_at_once(self) -> None:
        seen = Seen()
        row = await self.call(self.save, "Ada")
        [handle] = await self.send(seen.task(max_attempts=5)(row))
        await self.call(self.delete, row)
        await self.work()
        assert seen.names == []
        assert await handle.status() == TaskStatus.DEAD
        [letter] = await list_dead(self._queue)
        assert letter.attempts == 1
        assert "gone" in letter.reason
        assert "ReferenceGone" in letter.error

    async def test_on_missing_skip_passes_the_task_over(self) -> None:
        seen = Seen()
        row = await self.call(self.save, "Ada")
        [handle] = await self.send(seen.task(on_missing="skip")(row))
        await self.call(self.delete, row)
        await self.work()
        assert seen.names == []
        assert await handle.status() == TaskStatus.ENDED
        assert await list_dead(self._queue) == []

    async def test_on_missing_none_gives_none(self) -> None:
        seen, got = Seen(), list[Any]()

        async def read(gone: Any, kept: Any) -> None:
            got.append(gone)
            seen.note(kept)

        gone, kept = await self.call(self.save, "Ada"), await self.call(self.save, "Grace")
        await self.send(task(name=f"read-{uuid4().hex}", on_missing="none")(read)([gone], kept))
        await self.call(self.delete, gone)
        await self.work()
        assert (got, seen.names) == ([[None]], ["Grace"])

    async def test_a_parameter_may_have_a_rule_of_its_own(self) -> None:
        seen = Seen()
        row = await self.call(self.save, "Ada")
        [handle] = await self.send(seen.task(OnMissing("skip"))(row))
        await self.call(self.delete, row)
        await self.work()
        assert (seen.names, await handle.status()) == ([], TaskStatus.ENDED)

    async def test_one_task_whose_row_is_gone_leaves_the_others_alone(self) -> None:
        seen = Seen()
        read = seen.task()
        rows = [await self.call(self.save, f"name {i}") for i in range(5)]
        handles = await self.send(*map(read, rows))
        await self.call(self.delete, rows[2])
        await self.work()
        assert sorted(seen.names) == ["name 0", "name 1", "name 3", "name 4"]
        assert [await h.status() for h in handles].count(TaskStatus.DEAD) == 1

    @needs("missing_table")
    async def test_a_missing_table_is_no_outage(self) -> None:
        ref = await self.reference(await self.call(self.save, "Ada"))
        async with self.within(self.without_table()):
            with pytest.raises(Exception) as raised:
                await self.fetch([ref])
        assert not isinstance(raised.value, ReferenceUnavailable), "waiting does not create a table"
        if self.hooks.is_outage is not None:
            assert not self.hooks.is_outage(raised.value)
        assert [row.name for row in await self.fetch([ref])] == ["Ada"]

    @needs("outages")
    async def test_a_database_without_an_answer_uses_up_no_attempt(self) -> None:
        seen = Seen()
        [handle] = await self.send(seen.task(max_attempts=1)(await self.call(self.save, "Ada")))
        async with self.within(self.outage()):
            working = asyncio.create_task(self.worker().run())
            try:
                await _becomes(handle.status, TaskStatus.DELAYED)
            except BaseException:
                working.cancel()
                raise
        await asyncio.wait_for(working, 30)
        assert (seen.names, seen.attempts) == (["Ada"], [1])
        assert await handle.status() == TaskStatus.ENDED


async def _becomes(ask: Callable[[], Awaitable[TaskStatus]], expected: TaskStatus) -> None:
    deadline = monotonic() + 20
    while (status := await ask()) != expected:
        assert monotonic() < deadline, f"still {status}, not {expected}"
        await asyncio.sleep(0.02)

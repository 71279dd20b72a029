"""Work that is done to its end."""

from __future__ import annotations

import asyncio

import pytest
from asynctasq import uninterrupted
from asynctasq.adapters.shielding import given_time


async def test_work_ends_though_its_waiter_is_cancelled() -> None:
    begun, may_end, done = asyncio.Event(), asyncio.Event(), list[str]()

    async def work() -> None:
        begun.set()
        await may_end.wait()
        done.append("done")

    waiter = asyncio.create_task(uninterrupted(work()))
    await begun.wait()
    for _ in range(2):
        waiter.cancel()
        await asyncio.sleep(0)
    assert not waiter.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert done == ["done"]


async def test_what_work_returns_and_raises_comes_through() -> None:
    async def give(value: int) -> int:
        if not value:
            raise LookupError
        return value

    assert await uninterrupted(give(1)) == 1
    with pytest.raises(LookupError):
        await uninterrupted(give(0))


async def test_what_is_given_time_raises_its_own_errors() -> None:
    async def fail() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await given_time(fail(), 1)

"""What a long run leaves for the next one: after a crash, a stop, a retry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest
from asynctasq import (
    Retry,
    SerializationError,
    Snooze,
    Stopped,
    TaskStatus,
    Worker,
    calls,
    checkpoint,
    checkpoint_sync,
    current_message,
    deadletters,
    init,
    is_stopping,
    resumable,
    task,
)
from asynctasq.app import current
from asynctasq.brokers import ConsumerOptions, Outgoing, Remembering, WorkerInfo
from asynctasq.sending.progress import CHECKPOINT
from asynctasq.wire.encoding import no_plain_form
from asynctasq.wire.message import Message
from asynctasq.wire.results import encode_checkpoint

KEY = b"0123456789abcdef"

seen: list[Any] = []
may_go_on: asyncio.Event
is_under_way: asyncio.Event


@pytest.fixture(autouse=True)
async def _app() -> AsyncIterator[None]:
    global may_go_on, is_under_way
    may_go_on, is_under_way = asyncio.Event(), asyncio.Event()
    seen.clear()
    init(driver="memory", signing_key=KEY)
    yield
    init(driver="memory")


async def work() -> None:
    async with asyncio.timeout(30):
        await Worker(burst=True).run()


async def kept(message_id: str) -> bytes | None:
    broker = current().open_broker()
    assert isinstance(broker, Remembering)
    return await broker.value("default", CHECKPOINT, message_id)


@task(max_attempts=3, retry_delay=0)
async def step(how: str) -> None:
    found = current_message().checkpoint
    seen.append((found, current_message().attempt))
    if found == {"done": 2}:
        return
    await checkpoint({"done": 1 if found is None else 2})
    if how == "retry":
        raise Retry(delay=0)
    if how == "fail":
        raise ValueError("failed")
    if how == "snooze":
        raise Snooze(0)
    raise Stopped


@pytest.mark.parametrize("how", ["retry", "fail", "snooze", "stop"])
async def test_the_next_run_has_what_the_last_one_left(how: str) -> None:
    handle = await step(how).dispatch()
    await work()
    attempts = [1, 1, 1] if how in ("snooze", "stop") else [1, 2, 3]
    assert seen == list(zip([None, {"done": 1}, {"done": 2}], attempts, strict=True))
    assert await handle.status() is TaskStatus.ENDED
    assert await kept(handle.id) is None


@task(max_attempts=1)
async def die(number: int) -> None:
    seen.append(current_message().checkpoint)
    await checkpoint(number)
    if len(seen) == 1:
        raise ValueError("failed")


async def test_a_dead_letter_that_is_retried_has_it_too() -> None:
    handle = await die(7).dispatch()
    await work()
    assert await kept(handle.id) is not None
    info = await handle.info()
    assert info.checkpoint_bytes
    await deadletters.retry()
    await work()
    assert seen == [None, 7]
    assert await kept(handle.id) is None


async def test_a_run_after_a_crash_has_it() -> None:
    handle = await step("retry").dispatch()
    broker = current().open_broker()
    assert isinstance(broker, Remembering)
    info = WorkerInfo("crashing", "host", 1, ("default",), 1, 0.0)
    consumer = broker.consumer(ConsumerOptions(info, ("default",)))
    await consumer.start()
    assert len(await consumer.take(1, 5)) == 1
    left = encode_checkpoint({"done": 2}, no_plain_form, (KEY,), handle.id, 1000)
    await broker.set_value("default", CHECKPOINT, handle.id, left)
    await broker.release_worker("crashing", ["default"])
    await work()
    assert seen == [({"done": 2}, 1)]


@task
async def watchful(total: int) -> None:
    async for number in resumable(range(total), key=lambda number: number):
        seen.append(number)
        if number == 3:
            is_under_way.set()
            await may_go_on.wait()


async def stop_in_the_middle() -> None:
    worker = Worker()
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(30):
        await is_under_way.wait()
        worker.stop()
        while not worker.is_stopping:
            await asyncio.sleep(0.01)
        may_go_on.set()
        await running


async def test_a_loop_ends_when_the_worker_stops_and_goes_on_in_the_next() -> None:
    handle = await watchful(8).dispatch()
    await stop_in_the_middle()
    assert seen == [0, 1, 2, 3]
    [delayed] = await all_held(handle.queue)
    assert (delayed.id, delayed.attempt) == (handle.id, 1)
    await work()
    assert seen == list(range(8))
    assert await kept(handle.id) is None


async def all_held(queue: str) -> list[Any]:
    return (await calls(queue=queue)).calls


@task
async def queried() -> None:
    def after(key: int | None) -> Iterator[int]:
        seen.append(("after", key))
        return iter(range(0 if key is None else key + 1, 6))

    async for number in resumable(after, key=lambda number: number):
        seen.append(number)
        if number == 3 and not may_go_on.is_set():
            is_under_way.set()
            await may_go_on.wait()


async def test_a_loop_over_a_query_asks_for_what_is_left() -> None:
    await queried().dispatch()
    await stop_in_the_middle()
    await work()
    assert seen == [("after", None), 0, 1, 2, 3, ("after", 3), 4, 5]


@task
def in_thread() -> None:
    seen.append((current_message().checkpoint, is_stopping()))
    checkpoint_sync((1, "a"))
    if len(seen) == 1:
        raise Stopped


async def test_a_def_task_leaves_checkpoints_too() -> None:
    await in_thread().dispatch()
    await work()
    assert seen == [(None, False), ((1, "a"), False)]


@task
async def ignores() -> None:
    seen.append(current_message().checkpoint)
    if len(seen) == 1:
        await checkpoint(5)
        is_under_way.set()
        await asyncio.sleep(3600)


async def test_a_run_that_is_cancelled_by_the_stop_leaves_its_checkpoint() -> None:
    await ignores().dispatch()
    worker = Worker(grace=0)
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(30):
        await is_under_way.wait()
        worker.stop()
        await running
    await work()
    assert seen == [None, 5]


@pytest.mark.parametrize("value", [object(), "x" * 70_000])
async def test_what_cannot_be_kept_is_refused(value: object) -> None:
    @task(name="refused")
    async def refused() -> None:
        with pytest.raises(SerializationError, match="checkpoint"):
            await checkpoint(value)
        seen.append("refused")

    await refused().dispatch()
    await work()
    assert seen == ["refused"]


async def test_a_checkpoint_that_is_not_ours_is_passed_over() -> None:
    handle = await watchful(3).dispatch()
    broker = current().open_broker()
    assert isinstance(broker, Remembering)
    await broker.set_value("default", CHECKPOINT, handle.id, b"\x81damaged")
    [held] = await broker.find_held("default", [handle.id])  # type: ignore[attr-defined]
    message = replace(Message.decode(held.body, (KEY,)), resumed=1)
    await handle.cancel()
    await current().open_broker().put([Outgoing("default", handle.id, message.encode((KEY,)))])
    await work()
    assert seen == [0, 1, 2]


async def test_here_and_now_a_checkpoint_is_kept_by_nobody() -> None:
    @task(name="here")
    async def here() -> bool:
        await checkpoint(1)
        assert current_message().checkpoint == 1
        return is_stopping()

    assert await here().execute() is False


async def test_outside_of_a_task_there_is_none() -> None:
    with pytest.raises(LookupError):
        await checkpoint(1)
    with pytest.raises(LookupError):
        is_stopping()

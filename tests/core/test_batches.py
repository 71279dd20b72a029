"""Batches: every call counts once, and what follows comes once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asynctasq import (
    BadSignature,
    Batch,
    ConfigurationError,
    InvalidMessage,
    Progress,
    SerializationError,
    TaskStatus,
    Worker,
    cancel_calls,
    deadletters,
    init,
    looking,
    task,
)
from asynctasq.app import broker_instead, current
from asynctasq.brokers import Action, Outcome
from asynctasq.brokers.memory.broker import MemoryBroker, MemoryConsumer, MemoryStore
from asynctasq.listing import cancel_call
from asynctasq.sending.batch_values import (
    BATCH,
    COUNTS,
    MOST_RESULTS_BYTES,
    RESULTS,
    BatchCounts,
    decode_results,
    encode_results,
)

KEY = b"0123456789abcdef"

ran: list[Any] = []
fails: set[int] = set()


@pytest.fixture(autouse=True)
async def _app() -> AsyncIterator[None]:
    ran.clear()
    fails.clear()
    init(driver="memory", signing_key=KEY)
    yield
    init(driver="memory")


@task(max_attempts=1)
async def part(n: int) -> int:
    ran.append(n)
    if n in fails:
        raise ValueError(f"part {n} failed")
    return n * n


@task(queue="other", result_ttl=60)
async def total(parts: list[int]) -> int:
    ran.append(("total", parts))
    return sum(each or 0 for each in parts)


@task
async def large() -> str:
    return "x" * 300


@task
async def list_of(parts: list[Any]) -> None:
    ran.append(parts)


@task(queue="other", result_ttl=60)
async def note(text: str) -> str:
    ran.append(text)
    return text


async def work() -> None:
    await Worker(burst=True, queues=["default", "other"]).run()


async def test_what_follows_comes_once_all_are_done() -> None:
    batch = await Batch(
        [part(n) for n in range(20)], then=note("all"), catch=note("bad")
    ).dispatch()
    assert await batch.progress() == Progress(0, 20)
    await Worker(burst=True, queues=["default"]).run()
    assert sorted(ran) == list(range(20))
    assert await batch.progress() == Progress(20, 20)
    assert batch.then is not None
    assert await batch.then.status() is TaskStatus.WAITING
    await work()
    assert ran[20:] == ["all"]
    assert await batch.then.result(timeout=5) == "all"


async def test_a_task_that_follows_gets_what_the_calls_returned_in_order() -> None:
    batch = await Batch([part(n) for n in range(30)], then=total).dispatch()
    await work()
    assert batch.then is not None
    assert ran[-1] == ("total", [n * n for n in range(30)])
    assert await batch.then.result(timeout=5) == sum(n * n for n in range(30))


async def test_a_call_that_fails_is_caught_once_and_stops_what_follows() -> None:
    fails.update((3, 5))
    batch = await Batch(
        [part(n) for n in range(10)], then=note("all"), catch=note("bad")
    ).dispatch()
    await work()
    assert ran.count("bad") == 1
    assert "all" not in ran
    assert await batch.progress() == Progress(8, 10, "2 failed")
    assert await batch.failed() == [3, 5]


async def test_retrying_what_failed_lets_the_batch_end() -> None:
    fails.add(3)
    batch = await Batch([part(n) for n in range(5)], then=note("all"), catch=note("bad")).dispatch()
    await work()
    fails.clear()
    assert await deadletters.retry() == 1
    await work()
    assert ran.count("bad") == 1
    assert ran.count("all") == 1
    assert await batch.progress() == Progress(5, 5)
    assert await batch.failed() == []


async def test_chains_and_batches_in_a_batch_count_as_one_each() -> None:
    inner = Batch([part(1), part(2)], then=note("inner"))
    plain = Batch([part(3), part(4)])
    outer = await Batch([inner, plain, part(5).then(part), part(6)], then=total).dispatch()
    assert len(outer.children) == 6
    assert await outer.progress() == Progress(0, 4)
    await work()
    assert await outer.progress() == Progress(4, 4)
    assert ran[-1] == ("total", [None, None, 625, 36])
    assert ran.count("inner") == 1


async def test_a_failure_inside_of_a_batch_in_a_batch_reaches_the_outer_one() -> None:
    fails.add(2)
    inner = Batch([part(1), part(2)])
    outer = await Batch([inner, part(3)], then=note("all"), catch=note("bad")).dispatch()
    await work()
    assert ran.count("bad") == 1
    assert await outer.progress() == Progress(1, 2, "1 failed")
    fails.clear()
    await deadletters.retry()
    await work()
    assert ran.count("all") == 1
    assert await outer.progress() == Progress(2, 2)


async def test_a_chain_in_a_batch_that_stops_has_failed() -> None:
    fails.add(4)
    batch = await Batch([part(2).then(part).then(part), part(1)], catch=note("bad")).dispatch()
    await work()
    assert await batch.failed() == [0]
    assert ran.count("bad") == 1


async def test_a_batch_is_watched_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asynctasq.batching.WOKEN_SECONDS", 3600.0)
    fails.add(2)
    batch = await Batch([part(n) for n in range(4)]).dispatch()
    watching = batch.watch()
    assert await anext(watching) == Progress(0, 4)
    async with asyncio.timeout(10):
        _, updates = await asyncio.gather(work(), seen_in(watching))
    assert updates[-1] == Progress(3, 4, "1 failed")
    assert await asyncio.to_thread(lambda: [*batch.watch_sync()]) == updates[-1:]
    assert [one async for one in Batch.handle("0" * 32).watch()] == []


async def seen_in(watching: AsyncIterator[Progress]) -> list[Progress]:
    return [update async for update in watching]


async def test_a_cancelled_call_has_failed() -> None:
    began = asyncio.Event()
    batch = await Batch([endless(), part(1)], catch=note("bad")).dispatch()
    worker = Worker(queues=["default", "other"])
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(30):
        while await batch.children[0].status() is not TaskStatus.RUNNING:
            await asyncio.sleep(0.01)
        while not await batch.children[0].cancel(running=True):
            await asyncio.sleep(0.01)
        while "bad" not in ran:
            await asyncio.sleep(0.01)
    began.set()
    assert await batch.failed() == [0]
    worker.stop()
    await running


@task
async def endless() -> None:
    await asyncio.sleep(3600)


async def test_calls_that_come_again_count_once() -> None:
    """As where a worker dies between telling the batch and settling the call."""

    class Lossy(MemoryConsumer):
        async def settle(self, outcomes: Any) -> Any:
            again = [o for o in outcomes if o.delivery.id not in lost]
            lost.update(o.delivery.id for o in again)
            kept = [o for o in outcomes if o not in again]
            # What follows is over by the time that the calls come again.
            delays = {"default": 0.6, "other": 0.05}
            later = [
                Outcome(o.delivery, Action.POSTPONE, delay=delays[o.delivery.queue]) for o in again
            ]
            return await super().settle([*kept, *later])

    class LossyBroker(MemoryBroker):
        def consumer(self, options: Any) -> Any:
            return Lossy(self.store, options)

    lost: set[str] = set()
    store = MemoryStore()
    with broker_instead(lambda: LossyBroker(store)):
        batch = await Batch([part(n) for n in range(50)], then=total).dispatch()
        await work()
        assert await batch.progress() == Progress(50, 50)
    assert all(ran.count(n) == 2 for n in range(50))
    assert ran.count(("total", [n * n for n in range(50)])) == 2  # which was settled twice itself


def test_synchronous_code_sends_batches_too() -> None:
    batch = Batch([part(1), part(2)], then=total).dispatch_sync()
    assert batch.progress_sync() == Progress(0, 2)
    asyncio.run(work())
    assert batch.progress_sync() == Progress(2, 2)
    assert batch.failed_sync() == []
    assert batch.then is not None
    assert batch.then.result_sync(timeout=5) == 5


async def test_a_handle_from_an_id_knows_how_far_the_batch_is() -> None:
    batch = await Batch([part(1), part(2)]).dispatch()
    assert await Batch.handle(batch.id, batch.queue).progress() == Progress(0, 2)
    assert await Batch.handle("0" * 32).progress() is None
    assert await Batch.handle("0" * 32).failed() == []


async def test_cancelling_a_batch_cancels_what_waits() -> None:
    parts = [part(n) for n in range(120)]
    batch = await Batch(parts, then=note("all"), catch=note("bad")).dispatch()
    assert await batch.children[0].cancel()
    assert await cancel_call(batch.children[1].id)
    assert await looking.cancel("default", batch.children[2].id)
    assert await batch.failed() == [0, 1, 2]
    assert await batch.cancel() == 117
    assert await batch.progress() == Progress(0, 120, "120 failed")
    await work()
    assert ran == ["bad"]


async def test_a_batch_is_cancelled_by_its_id_with_those_in_it() -> None:
    inner = Batch([part(1), part(2).then(part)])
    batch = await Batch([inner, part(3).delay(60), note("x")], catch=note("bad")).dispatch()
    other = await Batch([part(4)]).dispatch()
    assert await Batch.handle(batch.id, batch.queue).cancel() == 4
    await work()
    assert sorted(map(str, ran)) == ["4", "bad"]
    assert await batch.progress() == Progress(0, 3, "3 failed")
    assert await other.progress() == Progress(1, 1)


async def test_cancelling_a_task_tells_the_batches_of_its_calls() -> None:
    batch = await Batch([part(1), part(2).delay(60), note("x")], catch=note("bad")).dispatch()
    assert await cancel_calls(task=part) == 2
    assert await batch.failed() == [0, 1]
    info = await batch.children[2].info()
    assert info.place is not None
    assert (info.place.id, info.place.index) == (batch.id, 2)


async def test_thousands_of_calls_are_counted() -> None:
    batch = await Batch([part(n) for n in range(3000)], then=note("all")).dispatch()
    await work()
    assert await batch.progress() == Progress(3000, 3000)
    assert ran.count("all") == 1


async def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Batch([])
    with pytest.raises(TypeError, match="not a chain"):
        Batch([part(1)], then=part(1).then(part))
    with pytest.raises(TypeError, match="not one call"):
        Batch(part(1))  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"a batch takes calls, such as .* not an object of type Task"
    ):
        Batch([part])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="not a task"):
        Batch([part(1)], catch=note)  # type: ignore[arg-type]
    with pytest.raises(SerializationError):
        await Batch([part(1)], then=note(object())).dispatch()  # type: ignore[arg-type]
    with pytest.raises(SerializationError):
        await Batch([part(1), part(object())]).dispatch()  # type: ignore[arg-type]
    assert ran == []
    current()._remembers = False
    with pytest.raises(ConfigurationError, match="a batch: driver"):
        await Batch([part(1)]).dispatch()


@pytest.mark.parametrize("kind", [BATCH, COUNTS])
async def test_a_damaged_batch_keeps_no_call_from_ending(kind: str) -> None:
    batch = await Batch([part(1), part(2)], then=note("all")).dispatch()
    broker = current().remembering("test")
    await broker.set_value(batch.queue, kind, batch.id, b"\x93damaged")
    await work()
    assert sorted(ran) == [1, 2]
    assert all(s.waiting + s.running == 0 for s in await current().open_broker().stats())


async def test_calls_of_a_batch_that_is_gone_end_all_the_same() -> None:
    batch = await Batch([part(1), part(2)], then=note("all")).dispatch()
    await current().remembering("test").set_value(batch.queue, BATCH, batch.id, None)
    await work()
    assert sorted(ran) == [1, 2]


async def test_results_that_are_too_large_together_are_a_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    init(driver="memory", max_payload_bytes=600)
    batch = await Batch([large() for _ in range(3)], then=list_of, catch=note("caught")).dispatch()
    await work()
    assert ran == ["caught"]
    assert await batch.progress() == Progress(3, 3)
    assert "what follows a batch cannot be put: call of" in caplog.text


async def test_what_calls_returned_is_deleted_once_it_is_handed_on() -> None:
    batch = await Batch([part(n) for n in range(3)], then=list_of).dispatch()
    await work()
    assert ran[-1] == [0, 1, 4]
    assert await current().remembering("test").values(batch.queue, f"{RESULTS}{batch.id}") == {}


@pytest.mark.parametrize("size", [1, MOST_RESULTS_BYTES // 3, MOST_RESULTS_BYTES + 1])
def test_results_are_kept_in_values_of_moderate_size(size: int) -> None:
    results = {i: bytes(size) for i in range(10)}
    values = [*encode_results(results.items(), "id", (KEY,))]
    assert len(values) == {1: 1, MOST_RESULTS_BYTES // 3: 4}.get(size, 10)
    found: dict[int, bytes] = {}
    for value in values:
        found |= decode_results(value, "id", (KEY,))
    assert found == results
    for wrong, error in ((values[0][:-1], BadSignature), (b"", BadSignature)):
        with pytest.raises(error):
            decode_results(wrong, "id", (KEY,))
    with pytest.raises(InvalidMessage):
        decode_results(values[0], "another", (KEY,))


@pytest.mark.parametrize(
    "damaged", [b"", b"\x91\xa2id", b"\x92\xa2id\x01", b"\x93\xa2id\x01\x02", b"\xc1"]
)
def test_damaged_results_are_recognised(damaged: bytes) -> None:
    with pytest.raises(InvalidMessage):
        decode_results(damaged, "id", ())


def test_counts_never_go_back() -> None:
    counts = BatchCounts().after([(0, True), (1, False)])
    assert counts.after([(0, False), (1, False)]) == counts
    assert counts.after([(1, True)]) == BatchCounts(done=0b11)
    assert counts.after([(1, True)]).is_whole(2)

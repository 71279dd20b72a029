"""The worker: order, concurrency, outages, logs, and the end of it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from asynctasq import (
    AsyncTask,
    BrokerUnavailable,
    TaskConfig,
    TaskHandle,
    TaskStatus,
    Worker,
    current_message,
    deadletters,
    dispatch_many,
    task,
)
from asynctasq.app import App
from asynctasq.brokers import (
    Consumer,
    ConsumerOptions,
    Delivery,
    Outcome,
    Outgoing,
    WorkerInfo,
)
from asynctasq.brokers.memory.broker import MemoryConsumer

Work = Callable[..., Awaitable[None]]
Start = Callable[..., Worker]
Becomes = Callable[..., Awaitable[None]]

ran: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


@task
async def note(value: object) -> None:
    ran.append(value)


async def test_earlier_queues_come_first(any_app: App, work: Work) -> None:
    for queue in ("low", "default", "high"):
        await dispatch_many(note(queue).on_queue(queue) for _ in range(5))
    await work(queues=["high", "default", "low"], concurrency=1)
    assert ran == ["high"] * 5 + ["default"] * 5 + ["low"] * 5


async def test_a_worker_serves_no_other_queue(any_app: App, work: Work) -> None:
    other = await note(1).on_queue("other").dispatch()
    await note(2).dispatch()
    await work(queues=["default"])
    assert ran == [2]
    assert await other.status() is TaskStatus.WAITING


async def test_one_queue_may_be_named_without_a_list(app: App) -> None:
    assert Worker(queues="default").queues == ("default",)


async def test_by_default_it_serves_the_queues_that_tasks_name(app: App) -> None:
    @task(queue="named-by-a-task")
    async def named() -> None: ...

    queues = Worker().queues
    assert queues[0] == "default"
    assert "named-by-a-task" in queues


async def test_no_more_run_at_once_than_allowed(any_app: App, work: Work) -> None:
    running: list[int] = []
    most: list[int] = []

    @task
    async def counted() -> None:
        running.append(1)
        most.append(len(running))
        await asyncio.sleep(0.005)
        running.pop()

    await dispatch_many(counted() for _ in range(60))
    await work(concurrency=7)
    assert len(most) == 60
    assert max(most) == 7


async def test_a_free_slot_is_filled_while_others_are_busy(
    any_app: App, start_worker: Start
) -> None:
    proceed = asyncio.Event()
    seen = asyncio.Event()

    @task
    async def blocks() -> None:
        await proceed.wait()

    @task
    async def quick() -> None:
        seen.set()

    await blocks().dispatch()
    start_worker(concurrency=2)
    for _ in range(3):
        seen.clear()
        await quick().dispatch()
        async with asyncio.timeout(10):
            await seen.wait()
    proceed.set()


async def test_work_that_arrives_wakes_an_idle_worker(
    any_app: App, start_worker: Start, becomes: Becomes
) -> None:
    started = asyncio.Event()

    @task
    async def starts() -> None:
        started.set()

    start_worker()
    await starts().dispatch()
    async with asyncio.timeout(10):
        await started.wait()
    waits: list[float] = []
    for _ in range(20):
        started.clear()
        before = time.perf_counter()
        await starts().dispatch()
        async with asyncio.timeout(10):
            await started.wait()
        waits.append(time.perf_counter() - before)
    assert sorted(waits)[10] < 0.05


async def test_burst_waits_for_what_is_delayed_and_for_other_workers(
    any_app: App, work: Work
) -> None:
    await note("delayed").delay(0.3).dispatch()

    @task
    async def further() -> None:
        await asyncio.sleep(0.05)
        await note("dispatched by a task").dispatch()

    await further().dispatch()
    await asyncio.gather(work(), work())
    assert sorted(ran) == ["delayed", "dispatched by a task"]


async def test_burst_with_nothing_to_do_ends_at_once(any_app: App, work: Work) -> None:
    async with asyncio.timeout(5):
        await work()


async def test_tasks_run_once_with_several_workers(any_app: App, work: Work) -> None:
    await dispatch_many(note(i) for i in range(300))
    await asyncio.gather(*(work(concurrency=10) for _ in range(3)))
    assert sorted(ran) == list(range(300))


async def test_messages_that_cannot_be_run_say_nothing_of_how_long_tasks_take(app: App) -> None:
    running, go_on = asyncio.Event(), asyncio.Event()

    @task
    async def long() -> None:
        running.set()
        await go_on.wait()

    garbage = [Outgoing("default", f"bad{i}", b"garbage") for i in range(60)]
    await app.open_broker().put(garbage)
    handles = await dispatch_many([long(), long()])
    worker = Worker(concurrency=1)
    run = asyncio.create_task(worker.run())
    async with asyncio.timeout(10):
        await running.wait()
        # Taken ahead, as beside short tasks, it would be kept from other workers.
        assert await handles[1].status() is TaskStatus.WAITING
        worker.stop()
        go_on.set()
        await run


# --- stopping ---------------------------------------------------------------------------


async def test_running_tasks_finish_when_the_worker_is_stopped(
    any_app: App, becomes: Becomes
) -> None:
    running = asyncio.Event()

    @task
    async def finishes() -> None:
        running.set()
        await asyncio.sleep(0.2)
        ran.append("finished")

    handle = await finishes().dispatch()
    late = await note("late").dispatch()
    worker = Worker(concurrency=1)
    run = asyncio.create_task(worker.run())
    async with asyncio.timeout(10):
        await running.wait()
        assert worker.running == 1
        worker.stop()
        await run
    assert ran == ["finished"]
    assert await handle.status() is TaskStatus.ENDED
    assert await late.status() is TaskStatus.WAITING


async def interrupted(worker: Worker, stop: Callable[[Worker], None], running: Any) -> float:
    """Run the worker, stop it once something runs; gives the seconds that the stop took."""
    run = asyncio.create_task(worker.run())
    async with asyncio.timeout(30):
        await running.wait()
        before = time.monotonic()
        stop(worker)
        await run
    return time.monotonic() - before


async def take_one(app: App, queue: str = "default") -> Delivery:
    """The queue's next message as another worker would get it."""
    info = WorkerInfo("another", "host", 1, (queue,), 1, time.time())
    consumer = app.open_broker().consumer(ConsumerOptions(info, (queue,)))
    await consumer.start()
    [delivery] = await consumer.take(1, 10)
    await consumer.stop()
    return delivery


async def test_a_task_that_outlives_the_grace_time_is_released(any_app: App) -> None:
    running = asyncio.Event()
    attempts: list[int] = []

    @task
    async def long() -> None:
        attempts.append(current_message().attempt)
        running.set()
        await asyncio.sleep(3600)

    handle = await long().dispatch()
    took = await interrupted(Worker(grace=0.2), Worker.stop, running)
    assert 0.2 <= took < 5
    assert await handle.status() is TaskStatus.WAITING
    delivery = await take_one(any_app)
    assert delivery.deliveries == 1
    assert attempts == [1]


async def test_a_second_stop_skips_the_grace_time(any_app: App) -> None:
    running = asyncio.Event()

    @task
    async def long() -> None:
        running.set()
        await asyncio.sleep(3600)

    def twice(worker: Worker) -> None:
        worker.stop()
        worker.stop()

    handle = await long().dispatch()
    assert await interrupted(Worker(grace=600), twice, running) < 5
    assert await handle.status() is TaskStatus.WAITING


async def test_a_released_task_runs_again_as_the_same_attempt(any_app: App, work: Work) -> None:
    running = asyncio.Event()
    attempts: list[int] = []

    @task(max_attempts=1)
    async def long_at_first() -> None:
        attempts.append(current_message().attempt)
        running.set()
        if len(attempts) < 8:
            await asyncio.sleep(3600)

    handle = await long_at_first().dispatch()
    for _ in range(7):  # more often than a message may be delivered
        running.clear()
        await interrupted(Worker(grace=0), Worker.stop, running)
    await work()
    assert attempts == [1] * 8
    assert await handle.status() is TaskStatus.ENDED


async def test_a_task_that_swallows_its_cancellation_holds_its_message_and_not_the_worker(
    any_app: App, monkeypatch: pytest.MonkeyPatch, becomes: Becomes
) -> None:
    monkeypatch.setattr("asynctasq.worker.slots.CANCEL_SECONDS", 0.2)
    running, proceed = asyncio.Event(), asyncio.Event()

    @task
    async def stubborn() -> None:
        running.set()
        while not proceed.is_set():
            try:
                await proceed.wait()
            except asyncio.CancelledError:
                continue
        ran.append("ended")

    handle = await stubborn().dispatch()
    worker = Worker(grace=0, lease=0.5)
    try:
        assert await interrupted(worker, Worker.stop, running) < 10
        assert worker.left_running
        assert await taken_within(any_app, 1.5) == []  # three leases: they are renewed
    finally:
        proceed.set()
    await becomes(lambda: gone(handle))
    assert ran == ["ended"]


async def gone(handle: TaskHandle[Any]) -> bool:
    return await handle.status() is TaskStatus.ENDED


async def taken_within(app: App, seconds: float) -> list[Delivery]:
    """What another worker gets in this time; given back."""
    info = WorkerInfo("another", "host", 1, ("default",), 1, time.time())
    consumer = app.open_broker().consumer(ConsumerOptions(info, ("default",)))
    await consumer.start()
    taken = await consumer.take(10, seconds)
    await consumer.stop()
    return taken


async def test_a_worker_whose_run_is_cancelled_stops_and_gives_back_what_has_ended(
    any_app: App,
) -> None:
    running = asyncio.Event()
    at_once: list[int] = []

    @task
    async def slow_to_end() -> None:
        at_once.append(1)
        running.set()
        try:
            await asyncio.sleep(3600)
        finally:
            assert await taken_within(any_app, 0.3) == []
            at_once.pop()

    handle = await slow_to_end().dispatch()
    run = asyncio.create_task(Worker(grace=0.1).run())
    async with asyncio.timeout(30):
        await running.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    assert at_once == []
    assert await handle.status() is TaskStatus.WAITING
    [delivery] = await taken_within(any_app, 10)
    assert delivery.deliveries == 1


async def test_a_cancelled_run_lets_tasks_finish_within_the_grace_time(any_app: App) -> None:
    running = asyncio.Event()

    @task
    async def finishes() -> None:
        running.set()
        await asyncio.sleep(0.2)
        ran.append("finished")

    async def for_some_time() -> None:
        async with asyncio.timeout(None) as limit:
            run = asyncio.create_task(Worker().run())
            await running.wait()
            limit.reschedule(asyncio.get_running_loop().time())
            await run

    handle = await finishes().dispatch()
    with pytest.raises(TimeoutError):
        await for_some_time()
    assert ran == ["finished"]
    assert await handle.status() is TaskStatus.ENDED


async def test_a_second_cancellation_skips_the_grace_time(app: App) -> None:
    running = asyncio.Event()

    @task
    async def long() -> None:
        running.set()
        await asyncio.sleep(3600)

    handle = await long().dispatch()
    run = asyncio.create_task(Worker(grace=600).run())
    async with asyncio.timeout(30):
        await running.wait()
        for _ in range(2):
            run.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await run
    assert await handle.status() is TaskStatus.WAITING


def test_a_loop_that_cancels_everything_at_its_end_leaves_no_message_leased(
    configure: Callable[..., App], tmp_path: Path
) -> None:
    app = configure(driver="sqlite", sqlite=tmp_path / "queue.db")
    running = asyncio.Event()

    @task(max_attempts=1)
    async def long() -> None:
        running.set()
        await asyncio.sleep(3600)

    async def leave_while_it_runs() -> None:
        await long().dispatch()
        global _worker
        _worker = asyncio.create_task(Worker().run())
        await running.wait()

    async def look() -> list[Delivery]:
        return await taken_within(app, 10)

    asyncio.run(leave_while_it_runs())
    [delivery] = asyncio.run(look())
    assert delivery.deliveries == 1


_worker: asyncio.Task[None]


async def test_a_worker_runs_once(app: App, work: Work) -> None:
    worker = Worker(burst=True)
    await worker.run()
    with pytest.raises(RuntimeError, match="make another"):
        await worker.run()


def test_stop_after_the_end_of_the_loop_is_harmless(configure: Callable[..., App]) -> None:
    configure()
    worker = Worker(burst=True)
    asyncio.run(worker.run())
    worker.stop()


async def test_a_thread_in_a_c_call_holds_its_message_after_its_timeout_and_a_stop(
    any_app: App, monkeypatch: pytest.MonkeyPatch, becomes: Becomes
) -> None:
    monkeypatch.setattr("asynctasq.worker.slots.CANCEL_SECONDS", 0.2)
    let_go = threading.Event()
    running = asyncio.Event()
    loop = asyncio.get_running_loop()

    @task(timeout=0.2, retry_delay=0)
    def stuck() -> None:
        loop.call_soon_threadsafe(running.set)
        let_go.wait(30)
        ran.append("ended")

    await stuck().dispatch()
    worker = Worker(grace=0.5, lease=0.5)
    try:
        await interrupted(worker, Worker.stop, running)
        assert worker.left_running
        assert await taken_within(any_app, 1.5) == []
    finally:
        let_go.set()
    [delivery] = await taken_within(any_app, 10)
    assert delivery.deliveries == 1


@pytest.mark.parametrize("stopped", [True, False], ids=["at a stop", "at its timeout"])
async def test_to_thread_holds_its_message_until_the_thread_has_ended(
    any_app: App, monkeypatch: pytest.MonkeyPatch, stopped: bool, start_worker: Start
) -> None:
    monkeypatch.setattr("asynctasq.worker.slots.CANCEL_SECONDS", 0.2)
    let_go = threading.Event()
    running = asyncio.Event()
    loop = asyncio.get_running_loop()

    def blocking() -> None:
        loop.call_soon_threadsafe(running.set)
        let_go.wait(30)

    @task(retry_delay=0)
    async def waits() -> None:
        await asyncio.to_thread(blocking)

    @task(retry_delay=0)
    async def in_an_executor_of_its_own() -> None:
        executor = ThreadPoolExecutor(1)
        try:
            await loop.run_in_executor(executor, blocking)
        finally:
            executor.shutdown(wait=False)

    for call in (waits(), in_an_executor_of_its_own()):
        running.clear()
        let_go.clear()
        await (call if stopped else call.timeout(0.1)).dispatch()
        worker = Worker(grace=0, lease=0.5)
        run = asyncio.create_task(worker.run())
        try:
            async with asyncio.timeout(10):
                await running.wait()
                if stopped:
                    worker.stop()
                    await run
                    assert worker.left_running
            assert await taken_within(any_app, 1.5) == []
        finally:
            let_go.set()
            worker.stop()
        async with asyncio.timeout(10):
            await run
        [delivery] = await taken_within(any_app, 10)
        assert delivery.deliveries == 1
        await any_app.open_broker().purge("default")


async def test_a_thread_is_interrupted_at_the_end_of_the_grace_time(app: App) -> None:
    loop = asyncio.get_running_loop()
    running = asyncio.Event()
    stopped = threading.Event()

    @task
    def spins() -> None:
        try:
            loop.call_soon_threadsafe(running.set)
            while True:
                sum(range(100))
        finally:
            stopped.set()

    handle = await spins().dispatch()
    assert await interrupted(Worker(grace=0), Worker.stop, running) < 5
    assert stopped.is_set()
    assert await handle.status() is TaskStatus.WAITING


async def test_stop_may_be_called_from_any_thread_and_before_the_start(app: App) -> None:
    worker = Worker()
    worker.stop()
    async with asyncio.timeout(5):
        await worker.run()
    other = Worker()
    run = asyncio.create_task(other.run())
    await asyncio.sleep(0.05)
    await asyncio.to_thread(other.stop)
    async with asyncio.timeout(5):
        await run


# --- a broker that is away --------------------------------------------------------------


async def test_a_broker_that_is_away_at_the_start_is_waited_for(
    app: App, monkeypatch: pytest.MonkeyPatch, work: Work
) -> None:
    tries: list[int] = []
    start = MemoryConsumer.start

    async def flaky(self: MemoryConsumer) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise BrokerUnavailable("away")
        await start(self)

    monkeypatch.setattr(MemoryConsumer, "start", flaky)
    await note(1).dispatch()
    await work()
    assert ran == [1]
    assert len(tries) == 3


async def test_a_worker_can_be_stopped_while_it_waits_for_its_broker(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(self: MemoryConsumer) -> None:
        raise BrokerUnavailable("away")

    monkeypatch.setattr(MemoryConsumer, "start", away)
    worker = Worker()
    run = asyncio.create_task(worker.run())
    await asyncio.sleep(0.05)
    worker.stop()
    async with asyncio.timeout(10):
        await run


async def test_outages_while_taking_and_settling_lose_and_repeat_nothing(
    app: App, monkeypatch: pytest.MonkeyPatch, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    take, settle = MemoryConsumer.take, MemoryConsumer.settle
    calls = {"take": 0, "settle": 0}

    async def flaky_take(self: MemoryConsumer, limit: int, seconds: float) -> list[Delivery]:
        calls["take"] += 1
        if calls["take"] % 2:
            raise BrokerUnavailable("away")
        return await take(self, limit, seconds)

    async def flaky_settle(self: MemoryConsumer, outcomes: Sequence[Outcome]) -> list[Outcome]:
        calls["settle"] += 1
        if calls["settle"] % 2:
            raise BrokerUnavailable("away")
        return await settle(self, outcomes)

    monkeypatch.setattr(MemoryConsumer, "take", flaky_take)
    monkeypatch.setattr(MemoryConsumer, "settle", flaky_settle)
    await dispatch_many(note(i) for i in range(50))
    await work(concurrency=10)
    assert sorted(ran) == list(range(50))
    assert {r.levelname for r in caplog.records} == {"WARNING"}


# --- leases -----------------------------------------------------------------------------


async def test_a_task_that_blocks_the_loop_keeps_its_lease(any_app: App, work: Work) -> None:
    @task
    async def blocks() -> None:
        ran.append("start")
        await asyncio.to_thread(lambda: None)
        time.sleep(1.6)
        ran.append("end")

    await blocks().dispatch()
    other = threading.Thread(target=lambda: asyncio.run(_burst_elsewhere()))
    other.start()
    await work(lease=0.5)
    await asyncio.to_thread(other.join)
    assert ran == ["start", "end"]


async def _burst_elsewhere() -> None:
    await Worker(burst=True, lease=0.5).run()


async def test_a_message_that_comes_back_while_it_still_runs_is_not_run_twice(
    app: App, start_worker: Start, becomes: Becomes
) -> None:
    proceed = asyncio.Event()

    @task
    async def long() -> None:
        ran.append(1)
        await proceed.wait()

    handle = await long().dispatch()
    worker = start_worker()
    await becomes(lambda: ran)
    await app.open_broker().release_worker(worker.id, ["default"])

    async def taken_again() -> bool:
        return await handle.status() is TaskStatus.RUNNING

    await becomes(taken_again)
    proceed.set()

    async def done() -> bool:
        return await handle.status() is TaskStatus.ENDED

    await becomes(done)
    assert ran == [1]


async def test_a_lost_lease_is_logged_once_and_its_outcome_changes_nothing(
    app: App,
    start_worker: Start,
    becomes: Becomes,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proceed, running = asyncio.Event(), asyncio.Event()

    @task
    async def long() -> None:
        running.set()
        await proceed.wait()

    handle = await long().dispatch()
    renewed: list[list[Delivery]] = []
    renew = MemoryConsumer.renew

    def noting(self: MemoryConsumer, held: Sequence[Delivery]) -> list[Delivery]:
        renewed.append(list(held))
        return renew(self, held)

    monkeypatch.setattr(MemoryConsumer, "renew", noting)
    worker = start_worker(lease=0.3)
    async with asyncio.timeout(5):
        await running.wait()
    await app.open_broker().release_worker(worker.id, ["default"])
    thief = app.open_broker().consumer(
        ConsumerOptions(WorkerInfo("thief", "h", 1, ("default",), 1, 0.0), ("default",))
    )
    await thief.start()
    worker.stop()
    taken = await thief.take(1, 5)
    await becomes(lambda: renewed[-3:] == [[], [], []])  # a lost lease is not renewed
    proceed.set()
    await becomes(lambda: not worker._settler.held)
    assert taken[0].id == handle.id
    assert await handle.status() is TaskStatus.RUNNING
    assert [r.id for r in caplog.records if r.message == "lease lost"] == [handle.id]  # type: ignore[attr-defined]


# --- delivery limit ---------------------------------------------------------------------


async def delivered(app: App, times: int, queue: str = "default") -> None:
    """Take everything on the queue so often, each time like a worker that then died."""
    for i in range(times):
        info = WorkerInfo(f"dead-{i}", "host", 1, (queue,), 1, time.time())
        consumer: Consumer = app.open_broker().consumer(ConsumerOptions(info, (queue,)))
        await consumer.start()
        while await consumer.take(100, 0):
            pass
        await app.open_broker().release_worker(info.id, [queue])


async def test_a_message_that_its_workers_die_with_is_a_dead_letter(
    any_app: App, work: Work
) -> None:
    @task(result_ttl=60)
    async def killer() -> None:
        ran.append("killer")

    handle = await killer().dispatch()
    await delivered(any_app, 5)
    await work()
    assert ran == []
    letter = await deadletters.show(handle.id)
    assert letter is not None
    assert letter.reason == "delivered 5 times to workers that died with it"
    assert letter.deliveries == 6
    with pytest.raises(Exception, match="workers that died with it"):
        await handle.result(5)


async def test_the_last_delivery_still_counts(any_app: App, work: Work) -> None:
    await note(1).dispatch()
    await delivered(any_app, 4)
    await work()
    assert ran == [1]


async def test_messages_at_their_last_delivery_run_alone(any_app: App, work: Work) -> None:
    running: list[str] = []
    beside: list[str] = []

    @task
    async def watched(kind: str) -> None:
        running.append(kind)
        await asyncio.sleep(0.02)
        if kind == "suspect":
            beside.extend(running)
        running.remove(kind)
        ran.append(kind)

    await dispatch_many(watched("suspect") for _ in range(3))
    await delivered(any_app, 4)
    await dispatch_many(watched("fresh") for _ in range(5))
    await work(concurrency=4)
    assert beside == ["suspect"] * 3
    assert sorted(ran) == ["fresh"] * 5 + ["suspect"] * 3


async def test_a_message_chosen_to_run_keeps_its_lease_while_others_are_given_back(
    app: App, monkeypatch: pytest.MonkeyPatch, work: Work
) -> None:
    renewed: list[str] = []
    settle, renew = MemoryConsumer.settle, MemoryConsumer.renew
    back = time.monotonic() + 1

    async def away(self: MemoryConsumer, outcomes: Sequence[Outcome]) -> list[Outcome]:
        if time.monotonic() < back:
            raise BrokerUnavailable("away")
        return await settle(self, outcomes)

    def noting(self: MemoryConsumer, held: Sequence[Delivery]) -> list[Delivery]:
        renewed.extend(delivery.id for delivery in held if not ran)
        return renew(self, held)

    suspect = await note("suspect").dispatch()
    await delivered(app, 4)
    await note("other").dispatch()
    monkeypatch.setattr(MemoryConsumer, "settle", away)
    monkeypatch.setattr(MemoryConsumer, "renew", noting)
    await work(lease=0.5)
    assert suspect.id in renewed
    assert ran == ["suspect", "other"]


async def test_messages_share_their_worker_until_their_last_delivery(
    any_app: App, work: Work
) -> None:
    all_of_them = asyncio.Barrier(10)

    @task
    async def meets() -> None:
        async with asyncio.timeout(20):
            await all_of_them.wait()
        ran.append(1)

    await dispatch_many(meets() for _ in range(10))
    await delivered(any_app, 3)
    await work()
    assert ran == [1] * 10


async def test_fresh_work_goes_on_elsewhere_while_a_suspect_runs_alone(
    any_app: App, start_worker: Start, becomes: Becomes
) -> None:
    begun, proceed = asyncio.Event(), asyncio.Event()

    @task
    async def suspect() -> None:
        begun.set()
        await proceed.wait()

    await suspect().dispatch()
    await delivered(any_app, 4)
    start_worker()
    async with asyncio.timeout(10):
        await begun.wait()
    start_worker()
    await dispatch_many(note(i) for i in range(200))
    await becomes(lambda: len(ran) == 200, 4)  # less than a worker takes nothing beside a suspect
    proceed.set()


# --- logs -------------------------------------------------------------------------------


async def test_each_outcome_is_one_structured_record_without_arguments(
    app: App, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "hunter2"
    caplog.set_level(logging.INFO)

    @task(max_attempts=2, retry_delay=0)
    async def fails(password: str) -> None:
        raise ValueError("as always")

    @task
    async def fine(password: str) -> None: ...

    class Made(AsyncTask[None]):
        config: TaskConfig = {"max_attempts": 1}

        def __init__(self, password: str) -> None:
            raise KeyError

        async def execute(self) -> None: ...

    bad = await fails(secret).dispatch()
    good = await fine(password=secret).dispatch()
    await work()
    records = {
        (r.message, getattr(r, "id", "")): vars(r)
        for r in caplog.records
        if r.name == "asynctasq.worker.slots"
    }
    assert set(records) == {
        ("task retried", bad.id),
        ("task dead", bad.id),
        ("task succeeded", good.id),
    }
    retried, dead = records["task retried", bad.id], records["task dead", bad.id]
    succeeded = records["task succeeded", good.id]
    for record in (retried, dead, succeeded):
        assert record["queue"] == "default"
        assert record["seconds"] >= 0
        assert secret not in repr(record)
    assert (retried["attempt"], dead["attempt"], succeeded["attempt"]) == (1, 2, 1)
    assert (retried["levelname"], dead["levelname"], succeeded["levelname"]) == (
        *("WARNING", "ERROR", "INFO"),
    )
    assert succeeded["task"] == fine.name
    assert retried["error"] == dead["error"] == "ValueError: as always"
    assert retried["delay_seconds"] == 0


async def test_an_error_in_a_constructor_is_the_tasks_own(app: App, work: Work) -> None:
    class Unmakeable(AsyncTask[None]):
        config: TaskConfig = {"max_attempts": 2, "retry_delay": 0, "result_ttl": 60}

        def __init__(self, n: int) -> None:
            ran.append(n)
            if len(ran) > 1:
                raise KeyError(n)

        async def execute(self) -> None: ...

    handle = await Unmakeable(1).dispatch()
    await work()
    assert ran == [1, 1, 1]
    with pytest.raises(KeyError):
        await handle.result(5)

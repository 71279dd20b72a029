"""The status of a call says what is known of it, and never more."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import asynctasq
import pytest
from asynctasq import TaskStatus, deadletters, dispatch_many, dispatch_many_sync, task
from asynctasq.app import App
from asynctasq.brokers import Broker

Work = Callable[[], Awaitable[None]]


@task
async def keeps_nothing() -> None: ...


@task(status_ttl=60)
async def keeps_its_end() -> None: ...


@task(status_ttl=60, max_attempts=1)
async def fails() -> None:
    raise ZeroDivisionError


async def test_an_id_of_which_nothing_is_known_is_unknown(any_app: App) -> None:
    assert await keeps_nothing.handle("no id of ours").status() is TaskStatus.UNKNOWN
    assert await keeps_its_end.handle("0" * 32).status() is TaskStatus.UNKNOWN


async def test_without_a_record_only_its_sender_knows_that_a_call_ended(
    any_app: App, work: Work
) -> None:
    handle = await keeps_nothing().dispatch()
    await work()
    assert await handle.status() is TaskStatus.ENDED
    assert await keeps_nothing.handle(handle.id).status() is TaskStatus.UNKNOWN


async def test_a_recorded_end_is_known_to_everybody(any_app: App, work: Work) -> None:
    done, dead = await keeps_its_end().dispatch(), await fails().dispatch()
    await work()
    assert await keeps_its_end.handle(done.id).status() is TaskStatus.DONE
    assert await fails.handle(dead.id).status() is TaskStatus.DEAD
    assert await deadletters.purge() == 1
    assert await fails.handle(dead.id).status() is TaskStatus.DEAD


async def test_a_purged_dead_letter_without_a_record_is_not_done(any_app: App, work: Work) -> None:
    @task(max_attempts=1)
    async def dies() -> None:
        raise ZeroDivisionError

    handle = await dies().dispatch()
    await work()
    assert await handle.status() is TaskStatus.DEAD
    await deadletters.purge()
    assert await handle.status() is TaskStatus.ENDED
    assert await dies.handle(handle.id).status() is TaskStatus.UNKNOWN


async def test_a_cancelled_call_is_cancelled_with_or_without_a_record(any_app: App) -> None:
    silent, recorded = await keeps_nothing().dispatch(), await keeps_its_end().dispatch()
    assert await silent.cancel()
    assert await recorded.cancel()
    assert await silent.status() is TaskStatus.CANCELLED
    assert await keeps_its_end.handle(recorded.id).status() is TaskStatus.CANCELLED
    assert await keeps_nothing.handle(silent.id).status() is TaskStatus.UNKNOWN


def test_synchronous_code_has_twins(configure: Callable[..., App]) -> None:
    configure()
    first, second = dispatch_many_sync([keeps_nothing(), keeps_its_end()])
    assert first.status_sync() is TaskStatus.WAITING
    assert second.cancel_sync()
    assert second.status_sync() is TaskStatus.CANCELLED


def test_an_application_lets_go_of_loops_that_have_ended(configure: Callable[..., App]) -> None:
    app = configure()
    for _ in range(5):
        asyncio.run(keeps_nothing().dispatch())
    assert not app.connections._open


def test_first_use_from_many_threads_makes_one_application(
    configure: Callable[..., App], monkeypatch: pytest.MonkeyPatch
) -> None:
    configure()
    monkeypatch.setenv("ASYNCTASQ_DRIVER", "memory")
    monkeypatch.setattr(asynctasq.app, "_current", None)
    ready, found = threading.Barrier(8), []

    def look() -> None:
        ready.wait(10)
        found.append(asynctasq.app.current())

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1


@contextmanager
def calls_between_turns() -> Iterator[list[int]]:
    """How many functions the running event loop calls between two of its turns, in this thread."""
    loop, counts, is_over = asyncio.get_running_loop(), [0], False

    def turn() -> None:
        if not is_over:
            counts.append(0)
            loop.call_soon(turn)

    def count(*_: object) -> None:
        counts[-1] += 1

    loop.call_soon(turn)
    sys.setprofile(count)
    try:
        yield counts
    finally:
        sys.setprofile(None)
        is_over = True


async def test_many_calls_leave_the_event_loop_to_others(any_app: App) -> None:
    """No turn of the loop does more than some milliseconds of the work."""
    calls = [keeps_nothing() for _ in range(10_000)]
    with calls_between_turns() as counts:
        handles = await dispatch_many(calls)
    assert len({handle.id for handle in handles}) == 10_000
    assert sum(counts) > 1_000_000
    # Beginnings and ends of functions, Python's and C's: a tenth of a microsecond each.
    assert max(counts) < 150_000


async def test_a_dispatch_of_many_that_fails_registers_none(app: App) -> None:
    class Broken:
        """What no adapter knows."""

    @task
    async def takes(value: object) -> None: ...

    with pytest.raises(asynctasq.SerializationError):
        await dispatch_many([keeps_nothing(), takes(Broken())])
    broker: Broker = app.open_broker()
    assert sum(s.waiting for s in await broker.stats()) == 0

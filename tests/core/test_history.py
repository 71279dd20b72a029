"""The last hour as the workers have counted it: what ran, how it ended, and how late it began."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import asynctasq.adapters.plugins
import pytest
from asynctasq import BrokerUnavailable, dispatch_many, history, task
from asynctasq.adapters.plugins import Adapters
from asynctasq.app import App
from asynctasq.brokers import Remembering
from asynctasq.events import RunFailed, RunSucceeded, flush
from asynctasq.history import MINUTES, MOST_TASKS, OTHER, Counts, Recording

Work = Callable[..., Awaitable[None]]

NOW = 1_800_000_000.0


@task
async def succeed() -> None: ...


@task(max_attempts=2, retry_delay=0)
async def fail() -> None:
    raise LookupError


def succeeded(at: float, **fields: object) -> RunSucceeded:
    given = {"enqueued_at": at - 3, "started_at": at - 1, "task": "t", "queue": "q", **fields}
    return RunSucceeded(at=at, id="1", **given)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a plugin that counts as well."""
    monkeypatch.setattr(asynctasq.adapters.plugins, "_installed", Adapters({}))


async def kept() -> list[history.Minute]:
    found = await history.minutes()
    assert found is not None
    return found


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the time of whoever reads the history."""

    def set_to(moment: float) -> None:
        monkeypatch.setattr(history, "time", lambda: moment)

    set_to(NOW)
    return set_to


async def test_a_worker_counts_how_its_runs_ended(any_app: App, work: Work) -> None:
    recording = Recording()
    await dispatch_many([succeed(), succeed().on_queue("other"), fail()])
    recording.start()
    await work(queues=["default", "other"])
    await asyncio.to_thread(flush)
    await recording.stop()
    total: dict[tuple[str, str], Counts] = {}
    for minute in await kept():
        assert minute.at % 60 == 0
        assert time.time() - 120 < minute.at <= time.time()
        for names, counts in minute.rows.items():
            total.setdefault(names, Counts()).add(counts)
    assert set(total) == {
        (succeed.name, "default"),
        (succeed.name, "other"),
        (fail.name, "default"),
    }
    assert total[succeed.name, "other"].succeeded == 1
    of_fail = total[fail.name, "default"]
    assert (of_fail.retried, of_fail.dead, of_fail.runs) == (1, 1, 2)


async def test_lateness_is_counted_from_when_a_run_was_due(
    any_app: App, clock: Callable[[float], None]
) -> None:
    recording = Recording()
    recording.note(succeeded(NOW))
    recording.note(succeeded(NOW, enqueued_at=NOW - 500, due=NOW - 1.5))
    recording.note(succeeded(NOW, enqueued_at=NOW - 2, due=NOW + 7))
    await recording.write()
    (minute,) = await kept()
    counts = minute.rows["t", "q"]
    assert counts == Counts(3, 0, 0, 0, 2.5, 2.0, 3.0, 1.0)


async def test_what_cannot_be_run_was_never_late(app: App, clock: Callable[[float], None]) -> None:
    recording = Recording()
    unreadable = RunFailed(at=NOW, id="1", task="", queue="q", started_at=NOW)
    recording.note(unreadable)
    await recording.write()
    (minute,) = await kept()
    assert minute.rows == {("(unreadable)", "q"): Counts(dead=1)}


async def test_workers_add_to_each_others_counts(
    any_app: App, clock: Callable[[float], None]
) -> None:
    recordings = [Recording() for _ in range(8)]
    for number, recording in enumerate(recordings):
        recording.note(succeeded(NOW, task=f"t{number % 2}"))
    await asyncio.gather(*(recording.write() for recording in recordings))
    (minute,) = await kept()
    assert {names[0]: counts.succeeded for names, counts in minute.rows.items()} == {
        "t0": 4,
        "t1": 4,
    }


async def test_an_hour_is_kept_and_no_more(any_app: App, clock: Callable[[float], None]) -> None:
    for minute in range(MINUTES + 20):
        recording = Recording()
        recording.note(succeeded(NOW + 60 * minute))
        await recording.write()
    broker = any_app.open_broker()
    assert isinstance(broker, Remembering)
    assert len(await broker.values("default", "history")) == MINUTES
    clock(NOW + 60 * (MINUTES + 19))
    found = await kept()
    assert [minute.at for minute in found] == sorted(minute.at for minute in found)
    assert len(found) == MINUTES
    clock(NOW + 60 * (MINUTES + 19 + 50))
    assert len(await kept()) == 10


async def test_what_comes_an_hour_late_overwrites_nothing(
    app: App, clock: Callable[[float], None]
) -> None:
    clock(NOW + 3600)
    for moment in (NOW + 3600, NOW):
        recording = Recording()
        recording.note(succeeded(moment))
        await recording.write()
    (minute,) = await kept()
    assert minute.at == (NOW + 3600) // 60 * 60


async def test_a_minute_is_small_whatever_runs(
    any_app: App, clock: Callable[[float], None]
) -> None:
    for turn in range(2):
        recording = Recording()
        for number in range(1000):
            recording.note(succeeded(NOW, task=f"{turn}-{number}-" + "x" * 1000, queue="\udc80"))
        await recording.write()
    (minute,) = await kept()
    assert len(minute.rows) == MOST_TASKS + 1
    assert sum(counts.succeeded for counts in minute.rows.values()) == 2000
    assert minute.rows[OTHER, OTHER].succeeded == 2000 - MOST_TASKS
    broker = any_app.open_broker()
    assert isinstance(broker, Remembering)
    (value,) = (await broker.values("default", "history")).values()
    assert len(value) < 10_000


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xc1",
        b"\x01",
        b"\x92\xa1x\x90",
        b"\x92\x01\x91\x92\xa1t\xa1q\xcf",
        b"\x92\x01\x91\x93\xa1t\xa1q\xa1n",
        b"\x92\x01\x91\x93\x01\xa1q\x05",
        b"\x92\x01\x91\x93\xa1t\xa1q\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00",
        b"\x92\x01\x91\x9b\xa1t\xa1q" + b"\x01" * 9,
        b"\xdd\xff\xff\xff\xff",
    ],
)
async def test_what_others_wrote_there_is_passed_over_and_written_over(
    app: App, clock: Callable[[float], None], value: bytes
) -> None:
    broker = app.open_broker()
    assert isinstance(broker, Remembering)
    await broker.set_value("default", "history", str(int(NOW // 60) % MINUTES), value)
    assert await history.minutes() == []
    recording = Recording()
    recording.note(succeeded(NOW))
    await recording.write()
    assert len(await kept()) == 1


async def test_what_could_not_be_written_is_written_the_next_time(
    configure: Callable[..., App], clock: Callable[[float], None]
) -> None:
    configure(driver="redis", redis={"url": "redis://127.0.0.1:1/0", "timeout": 0.2})
    recording = Recording()
    recording.note(succeeded(NOW))
    with pytest.raises(BrokerUnavailable):
        await recording.write()
    recording.note(succeeded(NOW))
    configure()
    await recording.write()
    (minute,) = await kept()
    assert minute.rows["t", "q"].succeeded == 2

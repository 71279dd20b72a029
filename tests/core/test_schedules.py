"""Schedules: each tick makes one call, whoever leads and whatever the clocks do."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from types import coroutine
from typing import Any

import asynctasq
import pytest
from asynctasq import (
    Config,
    ConfigurationError,
    Cron,
    Every,
    TaskStatus,
    schedule,
    schedules,
    scheduling,
    task,
    unschedule,
)
from asynctasq.app import App
from asynctasq.brokers import ConsumerOptions, Outcome, Remembering, WorkerInfo
from asynctasq.brokers.memory.broker import MemoryBroker
from asynctasq.errors import SerializationError
from asynctasq.sending.preparing import prepare_template
from asynctasq.sending.schedule_values import Definition, Scheduled, decode, tick_id
from asynctasq.sending.schedules import Schedules
from asynctasq.services.offered import declared_schedules, services_of
from asynctasq.services.ticking import Declaring, Ticking
from asynctasq.tasks.call import Call
from asynctasq.tasks.schedule import CatchUp
from asynctasq.tasks.task import registry
from asynctasq.tasks.timetable import ByCron, ByInterval, Timetable
from asynctasq.wire.message import Message

MINUTE, HOUR, DAY = 60, 3600, 86_400
START = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())


@task
async def report(region: str = "", day: int = 0) -> str:
    return f"{region}{day}"


class Clock:
    """Shows what it was set to."""

    def __init__(self) -> None:
        self.now = float(START)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def store(app: App) -> Schedules:
    return Schedules(app.open_broker(), app.config.signing_key)


def ticking(app: App, clock: Callable[[], float]) -> Ticking:
    """A leader that looks at everything each time."""
    return Ticking(store(app), False, clock, lambda: float("inf"))


async def put(
    app: App,
    name: str,
    table: Timetable,
    catch_up: CatchUp = "last",
    call: Call[Any] | None = None,
) -> None:
    template = prepare_template(call or report(), app.config, app.adapters)
    await store(app).put(Scheduled(name, Definition(template, table, catch_up), START * 1000))


async def calls(app: App) -> list[Message]:
    """Takes all messages from the queue, and is done with them."""
    info = WorkerInfo("test", "host", 1, ("default",), 1, 0.0)
    consumer = app.open_broker().consumer(ConsumerOptions(info, ("default",)))
    await consumer.start()
    found: list[Message] = []
    while deliveries := await consumer.take(1000, 0):
        found += [Message.decode(d.body, app.config.signing_key) for d in deliveries]
        await consumer.settle([Outcome(d) for d in deliveries])
    await consumer.stop()
    return found


def ticks(messages: list[Message]) -> list[int]:
    """Seconds since the start of the test's time."""
    return [round(message.enqueued_at) - START for message in messages]


# --- ticks ------------------------------------------------------------------------------


async def test_each_tick_makes_one_call_with_the_schedule_s_arguments(
    any_app: App, clock: Clock
) -> None:
    await put(any_app, "hourly", ByCron("0 * * * *"), call=report("eu", day=3))
    leader = ticking(any_app, clock)
    await leader.turn()
    assert await calls(any_app) == []
    for minutes in range(0, 200, 7):
        clock.now = START + minutes * MINUTE
        await leader.turn()
    found = await calls(any_app)
    assert ticks(found) == [HOUR, 2 * HOUR, 3 * HOUR]
    assert [m.id for m in found] == [
        tick_id("hourly", (START + n * HOUR) * 1000) for n in (1, 2, 3)
    ]
    assert {m.task for m in found} == {report.name}


@pytest.mark.parametrize("seed", range(4))
async def test_several_leaders_with_clocks_that_step_make_each_tick_once(
    any_app: App, seed: int
) -> None:
    random = Random(seed)
    clocks = [Clock() for _ in range(3)]
    leaders = [ticking(any_app, clock) for clock in clocks]
    await put(any_app, "a", ByInterval(MINUTE * 1000), "all")
    await put(any_app, "b", ByCron("*/7 * * * *", "Australia/Lord_Howe"), "all")
    found: list[Message] = []
    time = 0.0
    while time < 6 * HOUR:
        time += random.uniform(0, 10 * MINUTE)
        for clock in clocks:  # each is set forward or back by up to an hour
            clock.now = START + time + random.uniform(-HOUR, HOUR)
        await asyncio.gather(*(leader.turn() for leader in leaders))
        found += await calls(any_app)
    assert [n for n in Counter(m.id for m in found).values() if n != 1] == []
    a, b = ([m for m in found if is_of(name, m)] for name in "ab")
    last_a, last_b = max(ticks(a)), max(ticks(b))
    assert sorted(ticks(a)) == [*range(MINUTE, last_a + 1, MINUTE)]
    # In January, Lord Howe is eleven whole hours ahead: its minutes are those of UTC.
    sevenths = [s for s in range(MINUTE, last_b + 1, MINUTE) if s // MINUTE % 60 % 7 == 0]
    assert sorted(ticks(b)) == sevenths
    assert min(last_a, last_b) >= 5 * HOUR


def is_of(name: str, message: Message) -> bool:
    return message.id == tick_id(name, round(message.enqueued_at * 1000))


@coroutine
def killed_at(work: Coroutine[Any, Any, None], step: int) -> Generator[Any, Any, bool]:
    """Runs it up to its `step`th wait for the broker, which still gets the request.

    Returns:
        Whether it came to its end before.
    """
    for _ in range(step):
        try:
            waiting = work.send(None)
        except StopIteration:
            return True
        yield waiting
    work.close()
    return False


async def test_a_leader_killed_at_any_step_loses_no_tick_and_doubles_none(
    configure: Callable[..., App], tmp_path: Path, clock: Clock
) -> None:
    app = configure(driver="sqlite", sqlite=tmp_path / "queue.db")
    await put(app, "a", ByInterval(MINUTE * 1000), "all")
    await put(app, "b", ByInterval(MINUTE * 1000))
    found: list[Message] = []
    is_whole, step = False, 0
    while not is_whole:
        step += 1
        clock.now += MINUTE
        is_whole = await killed_at(ticking(app, clock).turn(), step)
        await ticking(app, clock).turn()
        found += await calls(app)
    assert step > 5
    assert Counter(ticks(found)) == {n * MINUTE: 2 for n in range(1, step + 1)}


YEAR = 365
ZONES = ["Europe/Berlin", "Australia/Lord_Howe", "America/New_York", "Asia/Kolkata"]


async def test_a_year_in_four_zones_has_a_call_for_each_day_and_hour(
    app: App, clock: Clock
) -> None:
    for zone in ZONES:
        await put(app, f"daily {zone}", ByCron("30 2 * * *", zone), "all")
        await put(app, f"hourly {zone}", ByCron("0 * * * *", zone), "all")
    random, found = Random(7), Counter[str]()
    leaders = [ticking(app, clock) for _ in range(2)]
    names = [f"{kind} {zone}" for zone in ZONES for kind in ("daily", "hourly")]
    end = START + YEAR * DAY
    while clock.now < end:
        clock.now = min(clock.now + random.uniform(0, 3 * DAY), end)
        await random.choice(leaders).turn()
        for message in await calls(app):
            (name,) = [name for name in names if is_of(name, message)]
            found[name] += 1
    # In Lord Howe, half an hour goes in spring and comes in autumn: neither shows a full hour.
    assert found == {f"daily {zone}": YEAR for zone in ZONES} | {
        f"hourly {zone}": YEAR * 24 - (zone == "Australia/Lord_Howe") for zone in ZONES
    }


@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [("last", [5 * HOUR]), ("all", [n * HOUR for n in range(1, 6)]), ("none", [])],
)
async def test_missed_ticks_are_made_up_for_as_asked(
    any_app: App, clock: Clock, catch_up: CatchUp, expected: list[int]
) -> None:
    await put(any_app, "hourly", ByCron("0 * * * *"), catch_up)
    clock.now = START + 5 * HOUR + 10 * MINUTE
    await ticking(any_app, clock).turn()
    assert ticks(await calls(any_app)) == expected
    clock.now = START + 6 * HOUR
    await ticking(any_app, clock).turn()
    assert ticks(await calls(any_app)) == [6 * HOUR]


async def test_a_long_time_is_missed_in_a_moment(app: App, clock: Clock) -> None:
    await put(app, "a", ByCron("* * * * * *", "Europe/Berlin"))
    await put(app, "b", ByInterval(100))
    clock.now = START + 1000 * DAY + 0.25
    async with asyncio.timeout(5):
        await ticking(app, clock).turn()
    assert ticks(await calls(app)) == [1000 * DAY, 1000 * DAY]


async def test_all_of_many_missed_ticks_come_step_by_step(app: App, clock: Clock) -> None:
    await put(app, "a", ByInterval(1000), "all")
    clock.now = START + 1050
    await ticking(app, clock).turn()
    assert ticks(await calls(app)) == [*range(1, 1051)]


# --- made at runtime --------------------------------------------------------------------


async def test_a_schedule_is_listed_changed_paused_and_taken_away(any_app: App) -> None:
    await schedule(report("eu"), name="mine", cron="0 3 * * *", timezone="Europe/Berlin")
    await schedule(report("eu"), name="other", every=timedelta(minutes=5), catch_up="all")
    mine, other = await schedules()
    assert (mine.name, mine.task, mine.queue) == ("mine", report.name, "default")
    assert (mine.timetable, mine.is_declared) == ("0 3 * * * Europe/Berlin", False)
    assert (other.timetable, other.catch_up) == ("every 0:05:00", "all")
    assert other.next is not None
    assert other.next.minute % 5 == 0
    assert await scheduling.pause("mine")
    await schedule(report("us").on_queue("fast"), name="mine", cron="0 4 * * *")
    mine, _ = await schedules()
    assert (mine.queue, mine.timetable) == ("fast", "0 4 * * * UTC")
    assert (mine.is_paused, mine.next) == (True, None)
    assert await scheduling.resume("mine")
    assert [one.is_paused for one in await schedules()] == [False, False]
    assert await unschedule("mine")
    assert not await unschedule("mine")
    assert [one.name for one in await schedules()] == ["other"]
    assert not await scheduling.pause("mine")


async def test_a_moved_schedule_is_ticked_in_its_new_queue_only(any_app: App) -> None:
    app, clock = any_app, Clock()
    await put(app, "a", ByInterval(MINUTE * 1000), "all", report().on_queue("slow"))
    late = ticking(app, clock)
    await late.turn()
    await put(app, "a", ByInterval(MINUTE * 1000), "all")
    clock.now += 3 * MINUTE
    late._read_at = float("inf")  # it has not heard of the change
    for leader in (late, ticking(app, clock)):
        await leader.turn()
    assert ticks(await calls(app)) == [MINUTE, 2 * MINUTE, 3 * MINUTE]
    assert {s.name: s.waiting for s in await app.open_broker().stats()}.get("slow", 0) == 0


async def test_no_tick_comes_again_when_a_schedule_is_put_again(any_app: App, clock: Clock) -> None:
    for _ in range(3):
        clock.now += MINUTE
        await ticking(any_app, clock).turn()
        await put(any_app, "a", ByInterval(MINUTE * 1000), "all")
        await ticking(any_app, clock).turn()
    assert ticks(await calls(any_app)) == [MINUTE, 2 * MINUTE, 3 * MINUTE]


async def test_a_schedule_for_one_time_is_gone_when_that_is_over(any_app: App) -> None:
    clock = Clock()
    await schedule(report(), name="once", at=datetime.fromtimestamp(START + 90, UTC))
    leader = ticking(any_app, clock)
    for _ in range(5):
        await leader.turn()
        clock.now += 40
    assert ticks(await calls(any_app)) == [90]
    assert await schedules() == []
    values = any_app.open_broker()
    assert isinstance(values, Remembering)
    assert dict(await values.values("default", "schedules")) == {}


async def test_a_paused_schedule_makes_no_call_and_goes_on_from_when_it_is_resumed(
    any_app: App, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr(scheduling, "time", clock)
    await put(any_app, "a", ByInterval(MINUTE * 1000), "all")
    leader = ticking(any_app, clock)
    await scheduling.pause("a")
    clock.now += 5 * MINUTE
    await leader.turn()
    await scheduling.resume("a")
    clock.now += MINUTE
    await leader.turn()
    assert ticks(await calls(any_app)) == [6 * MINUTE]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "exactly one of cron, every and at"),
        ({"cron": "0 3 * * *", "every": timedelta(1)}, "exactly one"),
        ({"cron": "0 3 * *"}, "not a cron expression"),
        ({"cron": "0 0 30 2 *"}, "not a cron expression"),
        ({"cron": "0 3 * * *", "timezone": "Mars/Olympus"}, "no time zone 'Mars/Olympus'"),
        ({"every": timedelta(1), "timezone": "UTC"}, "with cron only"),
        ({"every": timedelta(0)}, "0.1 seconds"),
        ({"at": datetime(2030, 1, 1)}, "aware"),
        ({"cron": "0 3 * * *", "catch_up": "some"}, "catch_up"),
    ],
)
async def test_what_is_no_schedule_is_refused(
    app: App, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        await schedule(report(), name="a", **options)
    assert await schedules() == []


async def test_what_is_no_call_cannot_be_scheduled(app: App) -> None:
    with pytest.raises(
        TypeError, match=r"schedule\(\) takes calls, such as .* not an object of type"
    ):
        await schedule(report, name="a", every=timedelta(1))  # type: ignore[arg-type]


async def test_a_call_with_a_time_of_its_own_cannot_be_scheduled(app: App) -> None:
    with pytest.raises(ValueError, match="a schedule says when"):
        await schedule(report().delay(5), name="a", every=timedelta(1))


def test_synchronous_code_has_schedules_too(app: App) -> None:
    asynctasq.schedule_sync(report(), name="a", every=timedelta(hours=1))
    assert [one.name for one in asynctasq.schedules_sync()] == ["a"]
    assert asynctasq.unschedule_sync("a")
    assert asynctasq.schedules_sync() == []


async def test_a_schedule_that_somebody_else_has_signed_makes_no_call(
    configure: Callable[..., App], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    app = configure(signing_key=b"k" * 16)
    await put(app, "good", ByInterval(MINUTE * 1000))
    template = prepare_template(report(), Config(), app.adapters)
    forged = Scheduled("bad", Definition(template, ByInterval(1000), "last"), 0)
    broker = app.open_broker()
    assert isinstance(broker, Remembering)
    for name, value in (("bad", forged.encode([b"x" * 16])), ("worse", b"\xdf\xff")):
        await broker.set_value("default", "schedules", name, b"12345678default")
        await broker.set_value("default", "schedule", name, value)
    # A good one does not stand for another.
    kept = await store(app).get("good")
    assert kept is not None
    await broker.set_value("default", "schedules", "copy", b"12345678default")
    await broker.set_value("default", "schedule", "copy", kept.value)
    clock.now += MINUTE
    await ticking(app, clock).turn()
    assert [is_of("good", m) for m in await calls(app)] == [True]
    assert {r.__dict__["schedule"] for r in caplog.records} == {"bad", "worse", "copy"}


def test_what_is_kept_comes_back_as_it_was(app: App) -> None:
    template = prepare_template(
        report("ü", day=2).with_headers({"a": "b"}), app.config, app.adapters
    )
    one = Scheduled("ö", Definition(template, ByCron("0 1 * * *", "Asia/Kolkata"), "none", True), 5)
    one = replace(one, is_paused=True, origin="x", since=3)
    assert decode(one.encode(()), "ö", "default", ()) == one


# --- declared by tasks ------------------------------------------------------------------


@pytest.fixture
def declare(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes a task the only one that declares schedules, in one version of the code."""

    def declare(**options: Any) -> None:
        monkeypatch.setitem(registry, "nightly", report)
        for name in [name for name, one in registry.items() if one.schedules]:
            monkeypatch.delitem(registry, name)
        if "nightly" in registry:
            monkeypatch.delitem(registry, "nightly")
        if options:

            async def nightly(region: str = "") -> None: ...

            task(name="nightly", **options)(nightly)

    return declare


class Fleet:
    """Workers with one version of the code."""

    def __init__(self, app: App, since: int) -> None:
        self.declaring = Declaring(store(app), declared_schedules(app), since)

    async def turn(self) -> None:
        await self.declaring.turn()


async def test_a_task_declares_its_schedules(app: App, declare: Callable[..., None]) -> None:
    declare(cron="0 3 * * *", timezone="Europe/Berlin", catch_up="none")
    await Fleet(app, 1).turn()
    (one,) = await schedules()
    assert (one.name, one.task, one.timetable) == ("nightly", "nightly", "0 3 * * * Europe/Berlin")
    assert (one.catch_up, one.is_declared) == ("none", True)


async def test_a_task_declares_several_with_arguments(
    app: App, declare: Callable[..., None]
) -> None:
    eu, us = Cron("0 3 * * *", args=["eu"]), Cron("0 9 * * *", kwargs={"region": "us"}, name="us")
    declare(schedule=[eu, us, Every(timedelta(hours=2))])
    await Fleet(app, 1).turn()
    names = {one.name for one in await schedules()}
    assert names == {"nightly 0 3 * * * UTC", "us", "nightly every 2:00:00"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cron": "bad"}, "not a cron expression"),
        ({"timezone": "Europe/Berlin"}, "exactly one"),
        ({"cron": "0 3 * * *", "timezone": "Nowhere"}, "no time zone"),
        ({"every": 5}, "timedelta"),
        ({"schedule": [Cron("0 3 * * *")] * 2}, "two schedules are named"),
        ({"schedule": ["0 3 * * *"]}, "Cron and Every"),
        ({"schedule": Cron("0 3 * * *")}, "a list"),
        ({"evry": timedelta(1)}, "every"),
    ],
)
def test_a_declaration_that_cannot_be_honoured_is_an_error(
    declare: Callable[..., None], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"task nightly.*{words}"):
        declare(**options)


async def test_arguments_that_do_not_fit_stop_a_worker_at_its_start(
    app: App, declare: Callable[..., None]
) -> None:
    declare(schedule=[Every(timedelta(1), args=["eu", 5])])
    with pytest.raises(ConfigurationError, match="schedule 'nightly every 1 day"):
        await asynctasq.Worker(burst=True).run()


async def test_the_code_s_schedules_cannot_be_taken_by_others(
    app: App, declare: Callable[..., None]
) -> None:
    declare(every=timedelta(1))
    await Fleet(app, 1).turn()
    with pytest.raises(ConfigurationError, match="a task declares the schedule 'nightly'"):
        await schedule(report(), name="nightly", every=timedelta(2))


async def test_two_versions_of_the_code_make_no_tick_twice(
    any_app: App, declare: Callable[..., None], clock: Clock
) -> None:
    app = any_app
    declare(every=timedelta(minutes=1), catch_up="all")
    old = Fleet(app, since=1)
    declare(every=timedelta(minutes=2), catch_up="all")
    new = Fleet(app, since=2)
    for fleet in (old, new):
        for scheduled in fleet.declaring._declared:
            fleet.declaring._declared = [replace(scheduled, last=START * 1000)]
    await old.turn()
    found: list[Message] = []
    for minute in range(1, 11):
        clock.now = START + minute * MINUTE
        for fleet in (new, old) if minute > 4 else (old,):
            await fleet.turn()
            await ticking(app, clock).turn()
        found += await calls(app)
    assert ticks(found) == [MINUTE * n for n in (1, 2, 3, 4, 6, 8, 10)]


async def test_the_new_version_has_its_way_and_the_old_one_when_it_is_rolled_back(
    app: App, declare: Callable[..., None]
) -> None:
    declare(every=timedelta(minutes=1))
    old = Fleet(app, since=1)
    declare(every=timedelta(minutes=2))
    new = Fleet(app, since=2)
    for fleet in (old, new, old):
        await fleet.turn()
    assert [one.timetable for one in await schedules()] == ["every 0:02:00"]
    broker = app.open_broker()
    assert isinstance(broker, Remembering)
    await broker.set_value("default", "schedules-declared", new.declaring._origin, None)
    await old.turn()
    assert [one.timetable for one in await schedules()] == ["every 0:01:00"]


async def test_a_schedule_goes_with_the_code_that_declares_it(
    any_app: App, declare: Callable[..., None], clock: Clock
) -> None:
    declare(every=timedelta(minutes=1))
    await Fleet(any_app, since=1).turn()
    declare()
    broker = any_app.open_broker()
    assert isinstance(broker, Remembering)
    (origin,) = await broker.values("default", "schedules-declared")
    await broker.set_value("default", "schedules-declared", origin, None)  # its time is over
    clock.now += 1000 * DAY
    await ticking(any_app, clock).turn()
    assert await schedules() == []
    assert await calls(any_app) == []
    assert "nightly" in await broker.values("default", "schedule")  # the code may come back
    await broker.set_value("default", "schedules-declared-lately", origin, None)
    await ticking(any_app, clock).turn()
    assert dict(await broker.values("default", "schedule")) == {}


# --- in workers -------------------------------------------------------------------------

seen: list[str] = []


@task(result_ttl=60)
async def note(message: str) -> None:
    seen.append(message)


async def test_workers_make_the_calls_of_a_schedule(
    any_app: App,
    start_worker: Callable[..., asynctasq.Worker],
    becomes: Callable[..., Awaitable[None]],
) -> None:
    seen.clear()
    at = datetime.now(UTC)
    await schedule(note("once"), name="once", at=at)
    for _ in range(3):
        start_worker()
    await becomes(lambda: seen)
    handle = note.handle(tick_id("once", round(at.timestamp() * 1000)))
    await handle.result(5)
    assert seen == ["once"]
    assert await schedules() == []
    assert await handle.status() == TaskStatus.DONE


async def test_a_worker_without_schedules_asks_for_no_lease(
    app: App, declare: Callable[..., None]
) -> None:
    declare()
    (service,) = services_of(app)
    assert isinstance(service, Ticking)
    assert not await service.is_needed()
    assert service.interval_seconds == 5
    await schedule(report(), name="a", every=timedelta(1))
    assert await service.is_needed()
    assert service.interval_seconds == 1


class Counted(MemoryBroker):
    """Counts what it is asked for."""

    asked = 0

    async def value(self, queue: str, kind: str, name: str) -> bytes | None:
        self.asked += 1
        return await super().value(queue, kind, name)

    async def values(self, queue: str, kind: str) -> Mapping[str, bytes]:
        self.asked += 1
        return await super().values(queue, kind)


@pytest.mark.parametrize("number", [1, 1000])
async def test_schedules_that_are_not_due_cost_no_more_if_they_are_many(
    app: App, clock: Clock, number: int
) -> None:
    broker, seconds = Counted(), 0.0
    kept = Schedules(broker, app.config.signing_key)
    template = prepare_template(report(), app.config, app.adapters)
    definition = Definition(template, ByInterval(3600_000), "last", is_declared=True)
    declared = [Scheduled(f"{n}", definition, START * 1000) for n in range(number)]
    services = (Declaring(kept, declared, 0), Ticking(kept, True, clock, lambda: seconds))
    for service in 2 * services:
        await service.turn()
    broker.asked = 0
    for _ in range(3):
        seconds += 1
        for service in services:
            await service.turn()
    # Each turn asks whether anything has changed, and the declaring one who else declares.
    assert broker.asked == 3 * 3


async def test_an_argument_that_cannot_travel_is_refused(app: App) -> None:
    with pytest.raises(SerializationError, match="day"):
        await schedule(report(day=object()), name="a", every=timedelta(1))  # type: ignore[arg-type]

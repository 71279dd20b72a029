"""Pauses as users make them: of queues, tasks, and calls with certain arguments."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asynctasq
import pytest
from asynctasq import (
    ConfigurationError,
    Limit,
    Unique,
    current_message,
    dispatch_many,
    pause,
    pause_sync,
    pauses,
    pauses_sync,
    resume,
    resume_sync,
    task,
)
from asynctasq.adapters import plugins
from asynctasq.app import App
from asynctasq.brokers import Outgoing
from asynctasq.cli import cli
from asynctasq.policies.pauses import Pause
from asynctasq.wire.message import new_id
from click.testing import CliRunner
from toy_orm import Order, Toy

Work = Callable[..., Awaitable[None]]
ran: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


@task
async def ship(number: int, speed: str = "slow") -> None:
    ran.append(number)


@task
async def bill(number: int) -> None:
    ran.append(f"bill {number}")


@task
async def pack(order: Order, *, note: str = "") -> None:
    ran.append(order.pk)


@task(max_attempts=1)
async def counted() -> None:
    message = current_message()
    assert message is not None
    ran.append((message.attempt, message.postponed, message.snoozes))


async def test_a_paused_task_takes_calls_and_begins_none(any_app: App, work: Work) -> None:
    await ship(1).dispatch()
    await pause(task=ship)
    await dispatch_many([ship(2), bill(1), ship(3, speed="fast")])
    await work()
    assert ran == ["bill 1"]
    assert await resume(task=ship)
    assert not await resume(task=ship)
    await work()
    assert ran == ["bill 1", 1, 2, 3]


async def test_a_paused_queue_begins_nothing_of_it(any_app: App, work: Work) -> None:
    await pause(queue="mail")
    await dispatch_many([ship(1).on_queue("mail"), ship(2)])
    await work(queues=["mail", "default"])
    assert ran == [2]
    assert await resume(queue="mail")
    await work(queues=["mail"])
    assert ran == [2, 1]


async def test_calls_are_paused_by_their_arguments_defaults_included(
    any_app: App, work: Work
) -> None:
    await pause(task=ship, where={"speed": "slow"})
    await pause(task=ship, where={"number": 7, "speed": "fast"})
    await dispatch_many([ship(1), ship(2, "slow"), ship(3, "fast"), ship(7, "fast")])
    await work()
    assert ran == [3]
    await resume(task=ship, where={"speed": "fast", "number": "7"})
    await work()
    assert ran == [3, 7]
    await resume(task=ship, where={"speed": "slow"})
    await work()
    assert ran == [3, 7, 1, 2]


@pytest.mark.parametrize("given", [Order(5), "Order#5"], ids=["instance", "text"])
async def test_calls_are_paused_by_the_row_that_they_are_about(
    toy: Toy, work: Work, given: object
) -> None:
    for pk in (5, 6):
        toy.rows[Order, None, pk] = "row"
    await pause(task=pack, where={"order": given})
    await dispatch_many([pack(Order(5)), pack(Order(6)), pack(Order(5), note="again")])
    await work()
    assert ran == [6]
    assert len(toy.asked) == 1  # the row of what is held back is not fetched
    [shown] = await pauses()
    assert (shown.what, shown.where) == (f"{pack.name}(order=Order#5)", {"order": "Order#5"})
    assert await resume(task=pack, where={"order": "Order#5"})
    await work()
    assert ran == [6, 5, 5]


async def test_a_pause_uses_up_nothing_of_a_call(any_app: App, work: Work) -> None:
    handle = await counted().dispatch()
    for _ in range(3):
        await pause(task=counted)
        await work()
        await resume(task=counted)
    await pause(task=counted)
    await work()
    assert await handle.cancel()
    await counted().dispatch()
    await resume(task=counted)
    await work()
    assert ran == [(1, 0, 0)]


async def test_paused_calls_take_no_slot(any_app: App, start_worker: Any, becomes: Any) -> None:
    await dispatch_many([ship(n) for n in range(50)])
    await pause(task=ship)
    start_worker(concurrency=1)
    await bill(1).dispatch()
    await becomes(lambda: ran == ["bill 1"])
    await bill(2).dispatch()
    await becomes(lambda: ran == ["bill 1", "bill 2"])
    await resume(task=ship)
    await becomes(lambda: ran[2:] == [*range(50)])


async def test_a_pause_holds_for_a_worker_that_waits_as_soon_as_it_returns(
    any_app: App, start_worker: Any, becomes: Any
) -> None:
    start_worker()
    for n in range(5):
        await ship(n).dispatch()
        await becomes(lambda n=n: ran == [*range(n + 1)])
        await pause(task=ship)
        await ship(-1).dispatch()
        await bill(n).dispatch()
        await becomes(lambda n=n: ran[-1] == f"bill {n}")
        ran.pop()
        [held] = [c for c in await asynctasq.app.current().open_broker().stats() if c.delayed]
        assert held.delayed == 1
        await asynctasq.app.current().open_broker().purge("default")
        await resume(task=ship)
    assert ran == [*range(5)]


async def test_calls_of_one_line_go_on_in_their_order_after_a_pause(
    any_app: App, work: Work
) -> None:
    @task(limit=Limit(1, by="account"))
    async def book(account: int, number: int) -> None:
        ran.append((account, number))

    await dispatch_many([book(account, n) for n in range(5) for account in (1, 2)])
    await pause(task=book, where={"account": 1})
    await work()
    assert ran == [(2, n) for n in range(5)]
    await resume(task=book, where={"account": 1})
    await work()
    assert ran[5:] == [(1, n) for n in range(5)]


async def test_a_debounced_call_stays_one_during_a_pause(any_app: App, work: Work) -> None:
    @task(unique=Unique(by="document", on_conflict="replace"))
    async def save(document: int, text: str) -> None:
        ran.append(text)

    await pause(task=save)
    for text in ("h", "he", "hey"):
        await save(1, text).dispatch()
        await work()
    assert ran == []
    await resume(task=save)
    await work()
    assert ran == ["hey"]


async def test_pauses_say_who_and_since_when(any_app: App) -> None:
    await pause(queue="default", by="ada")
    await pause(task="shop.ship", queue="default")
    whole, one = await pauses()
    assert (whole.queue, whole.what, whole.by) == ("default", "the queue", "ada")
    assert (one.task, one.where) == ("shop.ship", {})
    assert "@" in one.by
    assert one.since >= whole.since > 0


def test_synchronous_code_pauses_too(configure: Callable[..., App]) -> None:
    configure()
    pause_sync(task=ship, by="ada")
    [shown] = pauses_sync()
    assert (shown.task, shown.queue) == (ship.name, "default")
    assert resume_sync(task=ship)
    assert pauses_sync() == []


async def test_a_pause_of_a_task_holds_on_every_queue_that_has_its_calls(
    any_app: App, work: Work
) -> None:
    await ship(1).on_queue("other").dispatch()
    await pause(task=ship)
    await pause(task=bill, queue="other")
    await dispatch_many([ship(2), bill(1), bill(2).on_queue("other")])
    await work(queues=["other", "default"])
    assert ran == ["bill 1"]
    await resume(task=ship)
    await resume(task=bill, queue="other")
    await work(queues=["other", "default"])
    assert sorted(map(str, ran)) == ["1", "2", "bill 1", "bill 2"]


async def test_a_message_that_cannot_be_read_is_held_back_by_no_pause(
    any_app: App, work: Work
) -> None:
    await pause(task=ship)
    await any_app.open_broker().put([Outgoing("default", new_id(), b"\xff garbage")])
    await work()
    dead = {queue.name: queue.dead for queue in await any_app.open_broker().stats()}
    assert dead["default"] == 1


@pytest.mark.parametrize(
    "value",
    [b"", b"\xff", b"[]", b"{}", b"[" * 70_000, b'{"task": 1, "where": {}, "since": 0, "by": ""}',
     b'{"task": "x", "where": ["a"], "since": 0, "by": ""}',
     b'{"task": "x", "where": {"a": 1}, "since": "0", "by": ""}'],
    ids=range(8),
)  # fmt: skip
async def test_what_others_have_written_holds_nothing_back_and_is_shown(
    app: App, work: Work, value: bytes
) -> None:
    broker: Any = app.open_broker()
    assert Pause.decode("default", value) is None
    await broker.pause("default", "odd", value)
    await ship(1).dispatch()
    await work()
    assert ran == [1]
    assert [one.task for one in await pauses()] == ["odd"]
    assert await broker.resume("default", "odd")


async def test_what_makes_no_sense_is_refused(app: App) -> None:
    with pytest.raises(ValueError, match="a queue, a task or both"):
        await pause()
    with pytest.raises(ValueError, match="name the task"):
        await pause(queue="default", where={"number": 1})
    with pytest.raises(ValueError, match="not a queue name"):
        await pause(queue="")
    with pytest.raises(ConfigurationError, match="no parameter 'nubmer'; it has number, speed"):
        await pause(task=ship.name, where={"nubmer": 1})
    with pytest.raises(asynctasq.SerializationError):
        await pause(task=ship, where={"number": object()})
    for task_name, where in (("", {}), ("never", {"": 1}), ("", {"number": 1})):
        with pytest.raises(ValueError, match="must not be empty"):
            await pause(task=task_name, where=where)
    for end in (pause, resume):
        with pytest.raises(ValueError, match="can be encoded"):
            await end(task="\udcff")
    with pytest.raises(ValueError, match="65536 at most"):
        await pause(task=ship, where={"speed": "x" * 70_000})
    with pytest.raises(ConfigurationError, match="knows no queue, and no task 'never'"):
        await pause(task="never")
    assert await pauses() == []


async def test_pauses_with_other_arguments_are_others(any_app: App, work: Work) -> None:
    await pause(task=pack, where={"note": "a order=1"})
    await pause(task=pack, where={"note": "a", "order": "1"})
    assert len(await pauses()) == 2
    assert await resume(task=pack, where={"note": "a", "order": "1"})
    [left] = await pauses()
    assert left.where == {"note": "a order=1"}


async def test_a_broker_without_pauses_says_so(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain:
        def describe(self) -> str:
            return "plain"

    monkeypatch.setattr(type(app), "open_broker", lambda self: Plain())
    with pytest.raises(ConfigurationError, match="plain cannot pause"):
        await pause(queue="default")
    assert await pauses() == []


# --- the command line -------------------------------------------------------------------


@pytest.fixture
def run(
    configure: Callable[..., App], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Runs a command of `asynctasq` in this process; its output."""
    # Not those whose ORMs other tests have imported: the doctor would look at their databases.
    monkeypatch.setattr(plugins, "_installed", plugins.Adapters({}))
    configure(driver="sqlite", sqlite=tmp_path / "queue.db")

    def run(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == code, result.output
        return result.output

    return run


def test_the_command_line_pauses_shows_and_resumes(run: Callable[..., str]) -> None:
    run("pause", "--queue", "default", "--by", "ada")
    output = run("pause", "--task", ship.name, "--where", "number=5", "--where", "speed=slow")
    assert output == f"paused task {ship.name} where number=5, speed=slow\n"
    shown = json.loads(run("status", "--json"))["pauses"]
    assert [(p["queue"], p["task"], p["where"], p["by"]) for p in shown] == [
        ("default", "", {}, "ada"),
        ("default", ship.name, {"number": "5", "speed": "slow"}, shown[1]["by"]),
    ]
    table = run("status")
    assert "Paused" in table
    assert "the queue" in table
    assert "ada" in table
    assert f"{ship.name}(number=5, speed=slow)" in table
    assert "paused since" in run("doctor")
    run("resume", "--queue", "default")
    run("resume", "--task", ship.name, "--where", "speed=slow", "--where", "number=5")
    assert json.loads(run("status", "--json"))["pauses"] == []
    assert "no pause of queue default" in run("resume", "--queue", "default", code=1)


def test_a_call_that_is_held_back_is_listed_as_paused(run: Callable[..., str]) -> None:
    async def park() -> None:
        await pause(task=ship)
        await ship(1).dispatch()
        await asynctasq.Worker(burst=True).run()

    asyncio.run(park())
    [listed] = json.loads(run("tasks", "list", "--json"))["calls"]
    assert (listed["state"], listed["due"]) == ("delayed", None)
    assert "paused" in run("tasks", "list")


def test_the_command_line_refuses_what_makes_no_sense(run: Callable[..., str]) -> None:
    assert "say what" in run("pause", code=2)
    assert "give --task" in run("pause", "-q", "default", "--where", "a=1", code=2)
    assert "NAME=TEXT" in run("pause", "-t", ship.name, "--where", "a", code=2)
    assert "is not a queue name" in run("resume", "-q", "", code=2)
    assert "no parameter 'a'" in run("pause", "-t", ship.name, "--where", "a=1", code=1)
    assert "NAME=TEXT" in run("pause", "-t", ship.name, "--where", "=1", code=2)
    twice = ("--where", "number=1", "--where", "number=2")
    assert "given twice" in run("pause", "-t", ship.name, *twice, code=2)
    assert "--task needs a name" in run("resume", "-t", "", code=2)
    assert "65536 at most" in run("pause", "-q", "default", "--by", "x" * 70_000, code=2)
    assert "note: no task 'no.such'" in run("pause", "-t", "no.such", "-q", "default")


@pytest.mark.parametrize(
    "command", [("pause", "-t"), ("cancel",), ("tasks", "show"), ("dead", "show"), ("watch",)]
)
def test_what_is_no_text_is_refused(run: Callable[..., str], command: tuple[str, ...]) -> None:
    run("pause", "-q", "default")
    output = run(*command, "a\udcff", code=2 if command[0] == "pause" else 1)
    assert r"a\udcff" in output


def test_status_shows_the_keys_in_use(run: Callable[..., str]) -> None:
    @task(limit=Limit(1, by="account"), unique=True)
    async def book(account: int) -> None: ...

    asyncio.run(_dispatch(book(1), book(2)))
    found = json.loads(run("status", "--json", "--keys"))["keys"]["default"]
    assert sorted((k["kind"], k["waiting"]) for k in found) == [
        ("limit", 1),
        ("limit", 1),
        ("unique", 0),
        ("unique", 0),
    ]
    assert f"{book.name} account=1" in run("status", "--keys")
    assert "keys" not in json.loads(run("status", "--json"))


async def _dispatch(*calls: Any) -> None:
    await dispatch_many(calls)


async def test_calls_of_tasks_that_no_worker_knows_are_shown(
    configure: Callable[..., App], start_worker: Any, becomes: Any
) -> None:
    from asynctasq.cli.doctor import _of_what_waits
    from asynctasq.cli.queue_status import look
    from asynctasq.wire.message import Message

    app = configure(unknown_for=3600)
    broker = app.open_broker()
    message = Message(new_id(), "shop.of_tomorrow", b"\x92\x90\x80", 0.0)
    await broker.put([Outgoing("default", message.id, message.encode())])
    start_worker()

    async def is_shown() -> bool:
        return bool((await look(app, broker)).not_yet_known)

    await becomes(is_shown)
    [shown] = (await look(app, broker)).not_yet_known
    assert (shown.queue, shown.task) == ("default", "shop.of_tomorrow")
    assert "UnknownTask" in shown.error
    [finding] = await _of_what_waits(broker)
    assert finding.level == "warning"
    assert "shop.of_tomorrow wait for a worker that knows them" in finding.text

"""Calls that wait, run or are delayed: page by page, one by its id, and on the command line."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asynctasq import (
    Batch,
    CallInfo,
    ConfigurationError,
    TaskCancelled,
    TaskStatus,
    Worker,
    calls,
    calls_sync,
    cancel_calls,
    cancel_calls_sync,
    deadletters,
    dispatch_many,
    init,
    progress,
    task,
)
from asynctasq.app import broker_instead, current
from asynctasq.brokers import Broker, Outgoing
from asynctasq.brokers.memory.broker import MemoryBroker
from asynctasq.cli import cli
from click.testing import CliRunner

KEY = b"0123456789abcdef"


@task(queue="bills")
async def pay(n: int, note: str = "") -> None: ...


@task(queue="letters", result_ttl=60, max_attempts=1)
async def write(to: str) -> None:
    if to == "nobody":
        raise ValueError("no address")
    await progress(1, 3, "greeting")
    began.set()
    await may_end.wait()


began, may_end = asyncio.Event(), asyncio.Event()


@pytest.fixture(autouse=True)
async def _app() -> AsyncIterator[None]:
    global began, may_end
    began, may_end = asyncio.Event(), asyncio.Event()
    init(driver="memory", signing_key=KEY)
    yield
    init(driver="memory")


async def every_page(limit: int, **chosen: Any) -> list[CallInfo]:
    found: list[CallInfo] = []
    after = None
    while True:
        page = await calls(limit=limit, after=after, **chosen)
        assert len(page.calls) <= limit
        found += page.calls
        if (after := page.after) is None:
            return found


async def test_a_call_is_listed_with_its_arguments_by_name() -> None:
    handle = await pay(5, note="rent").dispatch()
    [call] = (await calls("waiting")).calls
    assert (call.id, call.queue, call.state) == (handle.id, "bills", TaskStatus.WAITING)
    assert (call.task, call.arguments) == (pay.name, "n=5, note='rent'")
    assert (call.attempt, call.deliveries) == (1, 0)
    assert call.enqueued_at
    assert call.payload_bytes
    assert (await calls("delayed")).calls == (await calls("running")).calls == []


async def test_pages_go_over_states_and_queues_in_order() -> None:
    await dispatch_many([pay(n) for n in range(5)] + [pay(n).delay(60) for n in range(3)])
    await dispatch_many([write("you").delay(60), write("me")])
    listed = await every_page(2)
    assert [call.state for call in listed] == ["waiting"] * 6 + ["delayed"] * 4
    assert [call.queue for call in listed] == ["bills"] * 5 + ["letters"] + ["bills"] * 3 + [
        "letters"
    ]
    assert [call.queue for call in await every_page(1, queue="letters")] == ["letters"] * 2
    assert len(await every_page(1, state="delayed")) == 4


async def test_a_page_of_one_task_holds_no_more_than_asked_for() -> None:
    await dispatch_many([call for n in range(150) for call in (pay(n), write(f"{n}"))])
    listed = await every_page(7, task=write)
    assert [call.arguments for call in listed] == [f"to='{n}'" for n in range(150)]
    assert len(await every_page(40, task="*.pay")) == 150
    assert await every_page(40, task="nothing") == []


async def test_a_page_of_certain_arguments_holds_no_more_than_asked_for() -> None:
    await dispatch_many([pay(n) for n in range(150)])
    listed = await every_page(4, arguments="N=1", task="*.pay")
    assert {call.arguments.partition(",")[0] for call in listed} == {
        f"n={n}" for n in range(150) if str(n).startswith("1")
    }
    assert await every_page(40, arguments="m=1") == []


async def test_what_is_no_message_is_listed_by_its_id() -> None:
    await current().open_broker().put([Outgoing("bills", "odd", b"\0\1")])
    [call] = (await calls()).calls
    assert (call.id, call.task, call.arguments, call.payload_bytes) == ("odd", "", "", 2)


async def test_arguments_are_not_shown_where_the_configuration_says_so() -> None:
    init(driver="memory", show_arguments=False)
    handle = await pay(5).dispatch()
    [call] = (await calls()).calls
    assert (call.task, call.arguments) == (pay.name, "")
    assert (await calls(arguments="5")).calls == []
    assert (await handle.info()).arguments == ""


@pytest.mark.parametrize("after", ["", "x", "waiting", "waiting:bills:?", "dead:bills:", "::"])
async def test_a_place_that_is_none_is_refused_or_an_empty_page(after: str) -> None:
    await pay(1).dispatch()
    try:
        page = await calls(after=after)
    except ValueError:
        return
    assert len(page.calls) <= 1


async def test_a_state_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="running, waiting, delayed"):
        await calls("dead")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        await calls(limit=0)


async def test_a_broker_that_does_not_list_is_named() -> None:
    class NoLister:
        """Nothing but what every broker has."""

        def __init__(self, broker: Broker) -> None:
            self._broker = broker

        def __getattr__(self, name: str) -> object:
            if name in ("held", "find_held"):
                raise AttributeError(name)
            return getattr(self._broker, name)

    with broker_instead(lambda: NoLister(MemoryBroker())):  # type: ignore[arg-type, return-value]
        handle = await pay(1).dispatch()
        with pytest.raises(ConfigurationError, match="memory cannot list"):
            await calls()
        with pytest.raises(ConfigurationError, match="memory cannot list"):
            await handle.info()


async def test_the_info_of_a_call_follows_it() -> None:
    handle = await write("you").delay(0.1).dispatch()
    info = await handle.info()
    assert (info.state, info.arguments) == (TaskStatus.DELAYED, "to='you'")
    assert info.due
    worker = Worker(queues=["letters"])
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(30):
        await began.wait()
    info = await handle.info()
    assert (info.state, info.worker, info.deliveries) == (TaskStatus.RUNNING, worker.id, 1)
    assert info.progress is not None
    assert (info.progress.done, info.progress.note) == (1, "greeting")
    assert info.checkpoint_bytes is None
    assert (await calls("running")).calls[0].worker == worker.id
    may_end.set()
    await handle.result(timeout=30)
    assert (await handle.info()).state is TaskStatus.DONE
    worker.stop()
    await running


async def test_the_info_of_a_call_that_failed_says_why() -> None:
    handle = await write("nobody").dispatch()
    await Worker(queues=["letters"], burst=True).run()
    info = await handle.info()
    assert (info.state, info.attempt, info.error) == (TaskStatus.DEAD, 1, "ValueError: no address")
    assert info.reason == "no attempt is left"
    assert info.died_at
    assert "raise ValueError" in info.traceback
    await deadletters.purge()
    info = await handle.info()
    assert (info.state, info.error) == (TaskStatus.DEAD, "ValueError: no address")
    assert "raise ValueError" in info.traceback


async def test_the_info_of_an_unknown_call_says_so() -> None:
    info = await pay.handle("0" * 32).info()
    assert info == CallInfo("0" * 32, "bills", TaskStatus.UNKNOWN, pay.name)


def test_synchronous_code_lists_too() -> None:
    handle = pay(1).dispatch_sync()
    assert [call.id for call in calls_sync("waiting", task=pay).calls] == [handle.id]
    assert handle.info_sync().state is TaskStatus.WAITING


# --- cancelling -------------------------------------------------------------------------


async def test_all_calls_of_a_task_are_cancelled_also_those_that_run() -> None:
    one = await write("you").dispatch()
    worker = Worker(queues=["letters"], concurrency=1)
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(30):
        await began.wait()
    many = await dispatch_many([write(f"{n}") for n in range(120)])
    later, other = await write("you").delay(60).dispatch(), await pay(1).dispatch()
    assert await cancel_calls(task="*.write", state="delayed") == 1
    assert await cancel_calls(task=write) == 121
    with pytest.raises(TaskCancelled):
        await one.result(timeout=30)
    for handle in (later, *many):
        assert await handle.status() is TaskStatus.CANCELLED
    assert await other.status() is TaskStatus.WAITING
    assert await cancel_calls(queue="bills") == 1
    worker.stop()
    await running


async def test_not_all_calls_of_everything_are_cancelled() -> None:
    with pytest.raises(ValueError, match="name a queue or a task"):
        await cancel_calls()
    with pytest.raises(ValueError, match="name a queue or a task"):
        cancel_calls_sync(state="waiting")


# --- the command line -------------------------------------------------------------------


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["tasks", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def shared(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that the command sees too."""
    init(driver="sqlite", sqlite={"path": tmp_path / "queue.db"}, signing_key=KEY)


@pytest.mark.usefixtures("shared")
def test_tasks_list_shows_a_table_and_where_it_goes_on() -> None:
    first, second = pay(1, "rent").dispatch_sync(), pay(2).delay(60).dispatch_sync()
    listed = run("list")
    assert first.id in listed
    assert "n=1, note='rent'" in listed
    assert "in 60 s" in listed or "in 59 s" in listed
    assert "note" not in run("list", "--no-arguments")
    assert second.id not in run("list", "--state", "waiting")
    page = run("list", "--limit", "1")
    assert second.id not in page
    [place] = shlex.split(page.rpartition("--after ")[2])
    assert second.id in run("list", "--after", place)
    assert run("list", "--task", "nothing") == "No calls.\n"
    assert first.id in run("list", "--arguments", "RENT", "--limit", "1")
    assert run("list", "--arguments", "lent") == "No calls.\n"
    assert run("list", "-q", "letters") == "No calls.\n"
    result = CliRunner().invoke(cli, ["tasks", "list", "--after", "nowhere"])
    assert result.exit_code == 2
    assert "not a place in this list" in result.output


@pytest.mark.usefixtures("shared")
def test_tasks_list_gives_json() -> None:
    handle = pay(1).dispatch_sync()
    content = json.loads(run("list", "--json"))
    assert content["after"] is None
    assert [call["id"] for call in content["calls"]] == [handle.id]
    assert content["calls"][0]["state"] == "waiting"


@pytest.mark.usefixtures("shared")
def test_tasks_show_tells_all_of_one_call() -> None:
    handle = pay(1, "rent").dispatch_sync()
    shown = run("show", handle.id)
    assert "n=1, note='rent'" in shown
    assert json.loads(run("show", handle.id, "--json"))["state"] == "waiting"
    assert "rent" not in run("show", handle.id, "--no-arguments")
    failing = write("nobody").dispatch_sync()
    asyncio.run(Worker(queues=["letters"], burst=True).run())
    shown = run("show", failing.id)
    assert "no attempt is left" in shown
    assert "raise ValueError" in shown
    last = write("nobody").then(pay(1)).then(write("me")).dispatch_sync()
    asyncio.run(Worker(queues=["letters"], burst=True).run())
    assert last.parent is not None
    assert last.parent.parent is not None
    first = last.parent.parent.id
    assert last.parent.id in run("show", first)
    shown = run("show", last.id)
    assert f"the chain stopped at {write.name} {first}: no attempt is left" in shown
    assert last.parent.id in shown
    short = CliRunner().invoke(cli, ["show", last.id])
    assert (short.exit_code, short.output) == (0, shown)
    for command in (["show"], ["tasks", "show"]):
        result = CliRunner().invoke(cli, [*command, "unknown"])
        assert result.exit_code == 1
        assert "no queue holds unknown" in result.output


@pytest.mark.usefixtures("shared")
def test_cancel_takes_a_task_a_queue_or_both() -> None:
    def cancel(*arguments: str) -> str:
        result = CliRunner().invoke(cli, ["cancel", *arguments])
        return f"{result.exit_code} {result.output}"

    for _ in range(2):
        pay(1).dispatch_sync(), pay(2).delay(60).dispatch_sync(), write("you").dispatch_sync()
        write("you").on_queue("bills").dispatch_sync()
    assert cancel("--task", pay.name, "--state", "delayed") == "0 cancelled 2\n"
    assert cancel("--task", "*.write", "-q", "bills") == "0 cancelled 2\n"
    assert cancel("-q", "letters", "--state", "running") == "0 cancelled 0\n"
    assert cancel("-q", "letters") == "0 cancelled 2\n"
    for wrong in ([], ["--state", "waiting"], ["id", "--task", "x"], ["id", "--state", "waiting"]):
        assert "name calls by their ids" in cancel(*wrong)
    assert cancel("--task", "*") == "0 cancelled 2\n"


@pytest.mark.usefixtures("shared")
def test_watch_follows_a_call_or_a_batch_to_its_end() -> None:
    def watch(*arguments: str) -> tuple[int, list[str]]:
        result = CliRunner().invoke(cli, ["watch", *arguments])
        return result.exit_code, result.output.splitlines()

    handle = tell().dispatch_sync()
    batch = Batch([pay(1), pay(2)]).dispatch_sync()
    failing = write("nobody").dispatch_sync()
    cancelled = write("you").dispatch_sync()
    cancelled.cancel_sync()
    asyncio.run(Worker(queues=["bills", "letters"], burst=True).run())
    assert watch(handle.id) == (0, ["done 2/2 all of it", f" {handle.id}: done"])
    assert watch(batch.id) == (0, ["done 2/2", f"batch {batch.id}: done"])
    code, lines = watch(failing.id, "-q", "letters")
    assert (code, lines[0]) == (1, "dead 0")
    assert "ValueError: no address" in lines[-1]
    assert watch(cancelled.id)[0] == 1
    code, lines = watch("unknown")
    assert code == 1
    assert "no queue holds unknown" in lines[-1]


@pytest.mark.usefixtures("shared")
async def test_watch_shows_each_change_of_a_call_that_runs() -> None:
    from asynctasq.cli.watch_call import _looks

    handle = await write("you").dispatch()
    worker = Worker(queues=["letters"])
    running = asyncio.create_task(worker.run())
    states = []
    async with asyncio.timeout(30):
        async for look in _looks(handle.id, None):
            states.append((look.state, look.done, look.note))
            if look.note:
                may_end.set()
    assert ("running", 1, "greeting") in states
    assert states[-1][0] == "done"
    worker.stop()
    await running


@task(queue="bills", status_ttl=60)
async def tell() -> None:
    await progress(2, 2, "all of it")

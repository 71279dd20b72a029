"""Calls that follow others: each once, with the result of the one before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asynctasq import (
    AsyncTask,
    ChainStopped,
    ConfigurationError,
    InvalidMessage,
    Limit,
    Message,
    SyncTask,
    TaskCancelled,
    TaskConfig,
    TaskHandle,
    TaskStatus,
    Worker,
    deadletters,
    dispatch_many,
    init,
    schedule,
    task,
)
from asynctasq.app import broker_instead, current
from asynctasq.brokers import Action, Outcome, Outgoing
from asynctasq.brokers.memory.broker import MemoryBroker, MemoryConsumer, MemoryStore
from asynctasq.listing import find_call
from asynctasq.sending.listing import NextCall
from asynctasq.wire.flow import BatchPlace, ChainLink, Flow, decode, following_id
from process_jobs import square

KEY = b"0123456789abcdef"

ran: list[Any] = []


@pytest.fixture(autouse=True)
async def _app() -> AsyncIterator[None]:
    ran.clear()
    fails.clear()
    init(driver="memory", signing_key=KEY)
    yield
    init(driver="memory")


fails: set[str] = set()


@task(result_ttl=60)
async def add(a: int, b: int) -> int:
    ran.append(("add", a, b))
    if "add" in fails:
        raise ValueError("add failed")
    return a + b


@task(queue="other", result_ttl=60, max_attempts=1)
def double(n: int) -> int:
    ran.append(("double", n))
    if "double" in fails:
        raise ValueError("double failed")
    return 2 * n


@task(result_ttl=60)
async def say(text: Any, end: str = "") -> str:
    ran.append(("say", text))
    return f"{text}{end}"


class Triple(AsyncTask[int]):
    config: TaskConfig = {"result_ttl": 60}

    def __init__(self, n: int, times: int = 1) -> None:
        self.n, self.times = n, times

    async def execute(self) -> int:
        ran.append(("triple", self.n))
        return 3 * self.n * self.times


class Halve(SyncTask[float]):
    config: TaskConfig = {"result_ttl": 60}

    def __init__(self, n: int) -> None:
        self.n = n

    def execute(self) -> float:
        return self.n / 2


def chain_of(last: TaskHandle[Any]) -> list[TaskHandle[Any]]:
    """The handles of a chain, the first call's first."""
    return [*(chain_of(last.parent) if last.parent else ()), last]


async def work() -> None:
    await Worker(burst=True, queues=["default", "other"]).run()


async def test_the_next_call_gets_what_the_one_before_returned() -> None:
    last = await add(1, 2).then(double).then(say, end="!").dispatch()
    assert last.task is say
    assert last.parent is not None
    assert last.parent.task is double
    first = last.parent.parent
    assert first is not None
    assert first.task is add
    assert first.children == [last.parent]
    assert await last.status() is TaskStatus.WAITING
    await work()
    assert ran == [("add", 1, 2), ("double", 3), ("say", 6)]
    assert await last.result(timeout=5) == "6!"
    assert await first.result(timeout=5) == 3


async def test_classes_and_functions_of_every_kind_follow_each_other() -> None:
    last = await add(1, 1).then(Triple, times=2).then(Halve).then(say).dispatch()
    await work()
    assert await last.result(timeout=5) == "6.0"
    doubled = await Triple(1).then(double).dispatch()
    await work()
    assert await doubled.result(timeout=5) == 6


async def test_a_call_that_follows_may_leave_the_result_alone() -> None:
    last = await add(1, 2).then(say("done")).then(say).dispatch()
    await work()
    assert await last.result(timeout=5) == "done"


async def test_a_chain_follows_as_a_whole() -> None:
    last = await add(1, 2).then(add(3, 4).then(double)).then(say).dispatch()
    await work()
    assert ran == [("add", 1, 2), ("add", 3, 4), ("double", 7), ("say", 14)]
    assert await last.result(timeout=5) == "14"


async def test_a_task_in_a_process_hands_its_result_on() -> None:
    last = await add(1, 2).then(square).then(double).dispatch()
    await Worker(burst=True, queues=["default", "other"], modules=[square.__module__]).run()
    assert await last.result(timeout=5) == 18


def test_synchronous_code_sends_chains_too() -> None:
    last = add(1, 2).then(double).dispatch_sync()
    assert last.status_sync() is TaskStatus.WAITING
    asyncio.run(work())
    assert last.result_sync(timeout=5) == 6


async def test_what_changes_a_chain_is_for_its_first_call() -> None:
    last = await add(1, 2).then(double).delay(60).with_headers({"a": "b"}).dispatch()
    assert last.parent is not None
    assert await last.parent.status() is TaskStatus.DELAYED
    assert await last.status() is TaskStatus.WAITING


async def test_a_chain_runs_here_and_now_too() -> None:
    assert await add(1, 2).then(double).then(say("x")).then(say, end="y").execute() == "xy"


async def test_a_failed_link_is_retried_and_the_chain_goes_on() -> None:
    fails.add("add")
    last = await add(1, 2).max_attempts(2).retry_after(0).then(double).dispatch()

    async def recover() -> None:
        while len(ran) < 1:
            await asyncio.sleep(0.01)
        fails.clear()

    await asyncio.gather(work(), recover())
    assert await last.result(timeout=5) == 6


async def test_a_chain_stops_where_a_link_fails_and_says_so() -> None:
    fails.add("double")
    last = await add(1, 2).then(double).then(say).dispatch()
    await work()
    assert ran == [("add", 1, 2), ("double", 3)]
    assert await last.status() is TaskStatus.DEAD
    with pytest.raises(ChainStopped, match=r"the chain stopped at .*double .*double failed"):
        await last.result(timeout=5)
    with pytest.raises(ChainStopped):
        await last.result()
    info = await last.info()
    assert info.state is TaskStatus.DEAD
    assert info.error == "ValueError: double failed"
    assert last.parent is not None
    assert info.reason == f"the chain stopped at {double.name} {last.parent.id}: no attempt is left"
    assert "double failed" in info.traceback


async def test_a_handle_made_from_an_id_learns_what_comes_before_and_after() -> None:
    fails.add("double")
    sent = await add(1, 2).then(double).then(say).on_queue("other").dispatch()
    first_id, *ids = [handle.id for handle in chain_of(sent)]
    first = add.handle(first_id, "other")
    assert (await first.info()).children == (
        NextCall("other", ids[0], double.name),
        NextCall("default", ids[1], say.name),
    )
    [second] = first.children
    [third] = second.children
    assert (second.id, third.id, third.parent, second.parent) == (*ids, second, first)
    await work()
    link = double.handle(ids[0])
    assert (await link.info()).parent == ("other", first.id)
    assert link.parent is not None
    assert (link.parent.id, link.parent.task) == (first.id, add)


async def test_a_handle_made_from_the_id_of_a_later_call_learns_where_the_chain_stopped() -> None:
    fails.add("double")
    sent = await add(1, 2).then(double).then(say).then(say).dispatch()
    stopped = chain_of(sent)[1]
    last = say.handle(sent.id)
    info = await last.info()
    assert (info.state, info.task, info.reason) == (TaskStatus.WAITING, say.name, "")
    await work()
    last = say.handle(sent.id)
    info = await last.info()
    assert (info.state, info.error) == (TaskStatus.DEAD, "ValueError: double failed")
    assert info.reason == f"the chain stopped at {double.name} {stopped.id}: no attempt is left"
    assert last.parent is not None
    assert last.parent.id == chain_of(sent)[2].id
    found = await find_call(sent.id)
    assert found == info
    assert found.parent == ("default", last.parent.id)
    assert await find_call(f"{sent.id[:-1]}g") is None
    assert await find_call("garbage") is None


async def test_retrying_the_failed_link_lets_the_chain_go_on_from_there() -> None:
    fails.add("double")
    last = await add(1, 2).then(double).then(say).dispatch()
    await work()
    fails.clear()
    ran.clear()
    assert await deadletters.retry() == 1
    await work()
    assert ran == [("double", 3), ("say", 6)]
    assert await last.result(timeout=5) == "6"


async def test_cancelling_the_last_call_cancels_the_one_whose_turn_it_is() -> None:
    last = await add(1, 2).then(double).dispatch()
    assert await last.cancel()
    assert await last.status() is TaskStatus.CANCELLED
    with pytest.raises(TaskCancelled):
        await last.result(timeout=5)
    await work()
    assert ran == []


async def test_a_result_that_cannot_travel_stops_the_chain() -> None:
    last = await opaque().then(say).dispatch()
    await work()
    [letter] = await deadletters.list_dead()
    assert letter.reason == "the result cannot be handed on"
    assert ran == []
    assert await last.status() is TaskStatus.DEAD


@task
async def opaque() -> Any:
    return object()


@task
async def long(n: int) -> str:
    return "x" * n


async def test_a_result_that_is_too_large_for_the_next_call_stops_the_chain() -> None:
    init(driver="memory", max_payload_bytes=2000)
    await long(3000).then(say).dispatch()
    await work()
    [letter] = await deadletters.list_dead()
    assert letter.reason == "what follows it cannot be put"
    assert "max_payload_bytes" in letter.error
    assert ran == []


async def test_many_chains_at_once_keep_apart() -> None:
    lasts = await dispatch_many([add(n, n).then(double).then(say) for n in range(100)])
    await work()
    assert [await last.result(timeout=5) for last in lasts] == [str(4 * n) for n in range(100)]
    assert len(ran) == 300


@pytest.mark.parametrize("count", [0, 1, 15, 16, 40, 70_000])
async def test_the_result_stands_before_any_number_of_arguments(count: int) -> None:
    last = await add(1, 2).then(gather, *range(count)).dispatch()
    await work()
    assert await last.result(timeout=5) == [3, *range(count)]


@task(result_ttl=60)
async def gather(first: int, *others: int) -> list[int]:
    return [first, *others]


# --- what is refused --------------------------------------------------------------------


async def test_what_does_not_fit_is_refused_where_the_chain_is_made() -> None:
    with pytest.raises(TypeError, match="double"):
        add(1, 2).then(double, 1, 2)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="takes arguments for a task"):
        add(1, 2).then(say("x"), 1)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="a task or a call"):
        add(1, 2).then(print)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="comes when that is done"):
        add(1, 2).then(say("x").delay(5))
    with pytest.raises(ValueError, match="not chains"):
        await schedule(add(1, 2).then(double), name="chain", cron="* * * * *")


@task(unique=True)
async def lone(n: int) -> None: ...


@task(limit=Limit(1, by="n"))
async def limited(n: int) -> None: ...


@task(limit=Limit(1), queue="one")
async def one_by_one(n: int) -> None:
    ran.append(n)


async def test_a_key_that_needs_the_result_is_refused() -> None:
    for keyed in (lone, limited):
        with pytest.raises(ConfigurationError, match="the key of its"):
            await add(1, 2).then(keyed).dispatch()
    await add(1, 2).then(lone(5)).dispatch()
    await add(1, 2).then(one_by_one).dispatch()
    await Worker(burst=True, queues=["default", "one"]).run()
    assert ran[-1] == 3


async def test_a_broker_that_keeps_no_values_is_named() -> None:
    current()._remembers = False
    with pytest.raises(ConfigurationError, match="cannot keep what follows"):
        await add(1, 2).then(double).dispatch()


# --- each link once ---------------------------------------------------------------------


async def test_a_call_that_comes_again_after_what_follows_was_done_adds_nothing() -> None:
    """As where a worker dies between putting the next call and settling its own."""

    class Lossy(MemoryConsumer):
        async def settle(self, outcomes: Any) -> Any:
            mine = [one for one in outcomes if one.delivery.id == first_id and len(lost) < 2]
            lost.extend(mine)
            again = [Outcome(one.delivery, Action.POSTPONE, delay=0.2) for one in mine]
            return await super().settle([*(one for one in outcomes if one not in mine), *again])

    class LossyBroker(MemoryBroker):
        def consumer(self, options: Any) -> Any:
            return Lossy(self.store, options)

    lost: list[Outcome] = []
    first_id = ""
    store = MemoryStore()
    with broker_instead(lambda: LossyBroker(store)):
        last = await add(1, 2).then(double).dispatch()
        assert last.parent is not None
        first_id = last.parent.id
        await work()
        assert await last.result(timeout=5) == 6
    assert ran == [("add", 1, 2), ("double", 3), ("add", 1, 2), ("add", 1, 2)]


def test_ids_of_links_follow_from_the_first() -> None:
    first = "0123456789ab" + "f" * 20
    assert following_id(first) == following_id(first)
    assert following_id(first)[:12] == first[:12]
    assert len({first, following_id(first), following_id(following_id(first))}) == 3


def test_a_flow_comes_back_as_it_went() -> None:
    link = ChainLink("q", "t", b"\x92\x91\xc0\x80", True, {"a": 1}, {"h": "x"}, 3, [None, ["k", 1]])
    flow = Flow((link,), ("q", "id"), BatchPlace("q", "b", 7, True))
    assert decode(flow.encode()) == flow
    message = Message("0" * 32, "t", b"", 0.0, flow=flow.encode())
    assert Message.decode(message.encode((KEY,)), (KEY,)).flow == flow.encode()


@pytest.mark.parametrize(
    "damaged",
    [
        b"\xc1",
        b"\x93",
        b"\x93\xc0\xc0\xc0",
        b"\x93\x91\x90\xc0\xc0",
        b"\x93\x90\x91\x01\xc0",
        b"\x93\x90\xc0\x91\x01",
        b"\x93\x90\xc0\x94\xa1q\xa1b\xff\xc2",
    ],
)
async def test_a_damaged_flow_is_a_dead_letter(damaged: bytes) -> None:
    with pytest.raises(InvalidMessage):
        decode(damaged)
    message = Message("0" * 32, add.name, b"\x92\x92\x01\x02\x80", 0.0, flow=damaged)
    body = message.encode((KEY,))
    await current().open_broker().put([Outgoing("default", message.id, body)])
    await work()
    assert len(await deadletters.list_dead()) == 1
    assert ran == []

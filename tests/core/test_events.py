"""Listening to events: who hears what, and what a listener that fails or is slow changes."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import asynctasq.events.listening
import pytest
from asynctasq.events import (
    Called,
    Dispatched,
    Event,
    RunFailed,
    WorkerStarted,
    dropped_events,
    flush,
    listen,
    tell,
    unlisten,
    wanted,
)


@pytest.fixture(autouse=True)
def _no_listeners() -> Iterator[None]:
    yield
    for listening in list(asynctasq.events.listening._listening):
        unlisten(listening.function)


def _dispatched(message_id: str) -> Dispatched:
    return Dispatched(task="t", id=message_id, queue="q")


def test_a_listener_hears_the_kinds_it_names_in_order() -> None:
    heard: list[Event] = []
    listen(heard.append, Dispatched, RunFailed)
    told = [_dispatched("1"), RunFailed(task="t", id="1", queue="q"), _dispatched("2")]
    tell(WorkerStarted(worker="w"))
    for event in told:
        tell(event)
    assert flush()
    assert heard == told


def test_a_kind_stands_for_its_subclasses_and_none_for_all() -> None:
    calls: list[Event] = []
    everything: list[Event] = []
    listen(calls.append, Called)
    listen(everything.append)
    tell(_dispatched("1"))
    tell(WorkerStarted(worker="w"))
    assert flush()
    assert [type(e) for e in calls] == [Dispatched]
    assert [type(e) for e in everything] == [Dispatched, WorkerStarted]


def test_nobody_who_listens_leaves_nothing_wanted() -> None:
    assert not wanted
    function = listen(print, RunFailed)
    assert set(wanted) == {RunFailed}
    unlisten(function)
    assert not wanted


async def test_a_coroutine_function_may_listen() -> None:
    heard: list[Event] = []

    async def hear(event: Dispatched) -> None:
        heard.append(event)

    listen(hear, Dispatched)
    tell(_dispatched("1"))
    assert flush()
    assert len(heard) == 1


def test_a_listener_that_fails_hears_the_next_event_and_keeps_others_from_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[str] = []

    def hear(event: Dispatched) -> None:
        heard.append(event.id)
        raise ZeroDivisionError

    others: list[Event] = []
    listen(hear, Dispatched)
    listen(others.append, Dispatched)
    tell(_dispatched("1"))
    tell(_dispatched("2"))
    assert flush()
    assert heard == ["1", "2"]
    assert len(others) == 2
    assert caplog.text.count("a listener failed") == 2


def test_behind_a_slow_listener_events_are_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(asynctasq.events.listening, "QUEUE_LENGTH", 3)
    begun, go_on = threading.Event(), threading.Event()
    heard: list[str] = []

    def hear(event: Dispatched) -> None:
        begun.set()
        assert go_on.wait(10)
        heard.append(event.id)

    listen(hear, Dispatched)
    tell(_dispatched("0"))
    assert begun.wait(10)
    for n in range(1, 8):
        tell(_dispatched(str(n)))
    assert not flush(0)
    assert dropped_events() == 4
    go_on.set()
    assert flush()
    assert heard == ["0", "1", "2", "3"]
    assert caplog.text.count("too slow") == 1

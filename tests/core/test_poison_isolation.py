"""PoisonIsolation: messages close to their delivery limit."""

from __future__ import annotations

import asynctasq.worker.poison_isolation
import pytest
from asynctasq.brokers import Delivery
from asynctasq.worker.poison_isolation import (
    CAREFUL_TURNS,
    SOLITUDE_SECONDS,
    PoisonIsolation,
)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(asynctasq.worker.poison_isolation, "monotonic", lambda: now[0])
    return now


def _delivery(name: str, deliveries: int) -> Delivery:
    return Delivery("default", name, b"", deliveries, None)


def test_a_suspect_is_begun_alone_and_the_others_given_back(clock: list[float]) -> None:
    suspect, other = _delivery("suspect", 5), _delivery("other", 1)
    assert PoisonIsolation(5).choose([other, suspect], is_busy=False) == ([suspect], [other])


def test_only_the_last_permitted_delivery_is_alone(clock: list[float]) -> None:
    shared = [_delivery("shared", 4), _delivery("other", 1)]
    assert PoisonIsolation(5).choose(shared, is_busy=True) == (shared, ())


def test_with_a_limit_of_one_every_message_shares_its_worker(clock: list[float]) -> None:
    both = [_delivery("one", 1), _delivery("other", 1)]
    assert PoisonIsolation(1).choose(both, is_busy=True) == (both, ())


def test_a_suspect_waits_elsewhere_while_others_run_but_not_for_long(clock: list[float]) -> None:
    suspects, both = PoisonIsolation(5), [_delivery("suspect", 5), _delivery("other", 1)]
    assert suspects.choose(both, is_busy=True) == ([], both)
    assert 0 < suspects.patience_seconds() <= SOLITUDE_SECONDS
    clock[0] += SOLITUDE_SECONDS
    assert suspects.patience_seconds() <= 0
    suspects.waited()
    assert suspects.choose(both, is_busy=True) == (both[:1], both[1:])


def test_a_long_task_that_is_a_suspect_does_not_idle_its_worker(clock: list[float]) -> None:
    suspects = PoisonIsolation(5)
    suspects.choose([_delivery("suspect", 5)], is_busy=False)
    assert suspects.patience_seconds() > 0
    clock[0] += SOLITUDE_SECONDS
    assert suspects.patience_seconds() <= 0
    fresh = [_delivery("fresh", 1)]
    assert suspects.choose(fresh, is_busy=True) == (fresh, ())


def test_nothing_is_taken_beside_what_was_delivered_before_for_some_turns_of_the_loop(
    clock: list[float],
) -> None:
    isolation = PoisonIsolation(5)
    again = [_delivery("again", 2)]
    assert isolation.choose(again, is_busy=False) == (again, ())
    for _ in range(CAREFUL_TURNS):
        assert isolation.patience_seconds() > 0
        clock[0] += 10  # a starved process: the clock goes on, its tasks do not
    assert isolation.patience_seconds() <= 0


def test_fresh_messages_are_taken_beside_others_at_once(clock: list[float]) -> None:
    isolation = PoisonIsolation(5)
    isolation.choose([_delivery("fresh", 1)], is_busy=False)
    assert isolation.patience_seconds() <= 0

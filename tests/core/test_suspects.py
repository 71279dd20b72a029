"""Suspects: messages close to their delivery limit."""

from __future__ import annotations

import asynctasq.worker.poison_isolation
import pytest
from asynctasq.brokers import Delivery
from asynctasq.worker.poison_isolation import ALONE_SECONDS, Suspects


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(asynctasq.worker.poison_isolation, "monotonic", lambda: now[0])
    return now


def _delivery(name: str, deliveries: int) -> Delivery:
    return Delivery("default", name, b"", deliveries, None)


def test_a_suspect_is_begun_alone_and_the_others_given_back(clock: list[float]) -> None:
    suspect, other = _delivery("suspect", 3), _delivery("other", 1)
    assert Suspects(5).choose([other, suspect], is_busy=False) == ([suspect], [other])


def test_nothing_is_taken_beside_a_suspect_until_it_has_ended(clock: list[float]) -> None:
    suspects = Suspects(5)
    suspects.choose([_delivery("suspect", 3)], is_busy=False)
    assert suspects.patience_seconds() > 0
    suspects.ended("suspect")
    assert suspects.patience_seconds() <= 0


def test_a_long_task_that_is_a_suspect_does_not_idle_its_worker(clock: list[float]) -> None:
    suspects = Suspects(5)
    suspects.choose([_delivery("suspect", 3)], is_busy=False)
    clock[0] += ALONE_SECONDS + 1
    assert suspects.patience_seconds() <= 0
    fresh = [_delivery("fresh", 1)]
    assert suspects.choose(fresh, is_busy=True) == (fresh, ())

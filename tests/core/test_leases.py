"""Leases are renewed from a thread of their own, whatever happens to one renewal."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import pytest
from asynctasq import BrokerUnavailable
from asynctasq.brokers import Consumer, Delivery
from asynctasq.worker.leases import LeaseKeeper

HELD = [Delivery("q", "a", b"", 1, None), Delivery("q", "b", b"", 1, None)]


class Renewals:
    """A consumer's end that only renews: each answer in turn, the last one for ever."""

    def __init__(self, *answers: list[Delivery] | Exception) -> None:
        self._answers = list(answers)
        self.count = 0
        self.threads: set[str] = set()
        self.enough = threading.Event()

    def renew(self, held: Sequence[Delivery]) -> list[Delivery]:
        assert list(held) == HELD
        answer = self._answers[min(self.count, len(self._answers) - 1)]
        self.count += 1
        self.threads.add(threading.current_thread().name)
        if self.count > len(self._answers) + 2:
            self.enough.set()
        if isinstance(answer, Exception):
            raise answer
        return answer


@contextmanager
def keeping(renewals: Renewals, lost: Callable[[list[Delivery]], Any]) -> Iterator[None]:
    keeper = LeaseKeeper(cast(Consumer, renewals), 0.03, lambda: HELD, lost)
    keeper.start()
    try:
        yield
    finally:
        keeper.stop()


def test_it_renews_again_and_again_in_its_thread() -> None:
    renewals = Renewals([])
    with keeping(renewals, lambda _: pytest.fail("nothing was lost")):
        assert renewals.enough.wait(10)
    assert renewals.threads == {"asynctasq-leases"}
    assert "asynctasq-leases" not in {thread.name for thread in threading.enumerate()}


def test_what_was_lost_is_told() -> None:
    told: list[list[Delivery]] = []
    renewals = Renewals([], [HELD[0]], [])
    with keeping(renewals, told.append):
        assert renewals.enough.wait(10)
    assert told == [[HELD[0]]]


@pytest.mark.parametrize("error", [BrokerUnavailable("away"), ValueError("a bug")], ids=repr)
def test_a_renewal_that_fails_is_tried_again_and_logged_once_for_an_outage(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    renewals = Renewals(error, error, [], error, error, error, [])
    with keeping(renewals, lambda _: None):
        assert renewals.enough.wait(10)
    assert len(caplog.records) == 2

"""Signals of a process that runs tasks, and what becomes of them in its forks.

Owns the rule that what a task forks obeys signals as if there were no worker: a handler survives
`fork`, and `multiprocessing` ends its processes by SIGTERM.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]

#: End after the grace time, a second time without it.
STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: End without the grace time.
STOP_NOW = (signal.SIGQUIT,)

#: Handlers as they were before ours.
_former: dict[int, Any] = {}


def handle(stop: Handler, stop_now: Handler) -> None:
    """Call these at the signals of their kind, from now on."""
    for numbers, handler in ((STOP, stop), (STOP_NOW, stop_now)):
        for number in numbers:
            former = signal.getsignal(number)
            if number == signal.SIGHUP and former is signal.SIG_IGN:
                continue  # `nohup`: it is to outlive its terminal
            signal.signal(number, handler)
            _former.setdefault(number, former)


@contextmanager
def restored() -> Iterator[None]:
    """Put back in the end what `handle` replaced meanwhile."""
    before = dict(_former)
    try:
        yield
    finally:
        for number in [number for number in _former if number not in before]:
            _put_back(number)


def _put_back(number: int) -> None:
    former = _former.pop(number)
    if former is not None:  # else set by something other than Python, and out of its reach
        signal.signal(number, former)


#: What the forking thread had blocked before its fork.
_blocked: dict[int, set[signal.Signals]] = {}


def _hold() -> None:
    """Let a signal that comes early wait: our handler, still in place, would swallow it."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, list(_former))
    _blocked[threading.get_ident()] = {signal.Signals(number) for number in held}


def _let_go() -> None:
    former = _blocked.pop(threading.get_ident(), None)
    if former is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _reset() -> None:
    for number in list(_former):
        _put_back(number)
    _let_go()


os.register_at_fork(before=_hold, after_in_parent=_let_go, after_in_child=_reset)

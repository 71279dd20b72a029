"""Signal handling in a process that runs tasks, and in its forks.

Owns the rule that a process forked by a task obeys signals as if there were no worker: handlers
survive `fork`, and `multiprocessing` ends its processes with SIGTERM.
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

#: Signals that end the worker after its grace time; a second one skips that.
STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: Signals that end the worker without the grace time.
STOP_NOW = (signal.SIGQUIT,)

#: The handlers that ours have replaced.
_former: dict[int, Any] = {}


def handle(stop: Handler, stop_now: Handler) -> None:
    """Call these functions on `STOP` and `STOP_NOW` signals from now on."""
    for numbers, handler in ((STOP, stop), (STOP_NOW, stop_now)):
        for number in numbers:
            former = signal.getsignal(number)
            if number == signal.SIGHUP and former is signal.SIG_IGN:
                continue  # `nohup`: the process should outlive its terminal
            signal.signal(number, handler)
            _former.setdefault(number, former)


@contextmanager
def restored() -> Iterator[None]:
    """Restore, at the end, the handlers that `handle` replaced meanwhile."""
    before = dict(_former)
    try:
        yield
    finally:
        for number in [number for number in _former if number not in before]:
            _put_back(number)


def _put_back(number: int) -> None:
    former = _former.pop(number)
    if former is not None:  # None: not set from Python, which cannot restore it
        signal.signal(number, former)


#: The signals that the forking thread had blocked before its fork.
_blocked: dict[int, set[signal.Signals]] = {}


def _hold() -> None:
    """Delay signals during a fork: our handler, still in place in the child, would swallow them."""
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

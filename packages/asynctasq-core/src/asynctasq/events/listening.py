"""Event listeners, each with a bounded queue and its own thread.

Owns three rules. Without listeners there is no cost: emitting code checks `wanted` first. A
listener that raises affects nothing but the log. A slow listener delays no task and no other
listener: events that do not fit in its queue are dropped and counted.
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import logging
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from time import monotonic, sleep
from typing import Any, TypeVar

from .kinds import Event

E = TypeVar("E", bound=Event)
Listener = Callable[[E], object]

logger = logging.getLogger(__name__)

#: Maximum number of events waiting for one listener.
QUEUE_LENGTH = 10_000

#: Time that listeners get at process exit to hear the events still waiting.
LAST_SECONDS = 2.0


#: How long a listener that has heard everything lets new events gather.
_GATHERING_SECONDS = 0.005


class _Listening:
    """One listener: the events that it has not heard yet, and the thread that it hears them in."""

    def __init__(self, function: Callable[[Any], Any], kinds: tuple[type[Event], ...]) -> None:
        self.function = function
        self.kinds = kinds
        self._is_over = False
        self.begin_anew()

    def begin_anew(self) -> None:
        """Start empty, without a thread; also in a fork, which leaves the parent's events to it."""
        self.dropped = 0
        self._lock = threading.Lock()
        self._has_thread = False
        # Holds events, and what `flush` waits for to be reached. Not a deque with a condition: that
        # takes a lock in Python for each event, at five times the cost.
        self._waiting: SimpleQueue[Event | threading.Event] = SimpleQueue()

    def put(self, event: Event) -> None:
        if self._waiting.qsize() >= QUEUE_LENGTH:
            self._drop()
            return
        self._waiting.put(event)
        if not self._has_thread:
            self._begin()

    def _drop(self) -> None:
        with self._lock:
            self.dropped += 1
            if self.dropped == 1:
                logger.warning("a listener is too slow, events are dropped", extra=self._name())

    def _begin(self) -> None:
        with self._lock:
            if not self._has_thread:
                self._has_thread = True
                threading.Thread(target=self._run, name="asynctasq-events", daemon=True).start()

    def end(self) -> None:
        """Let the thread end once the listener has heard everything."""
        self._is_over = True
        self._waiting.put(threading.Event())

    def flush(self, deadline: float) -> bool:
        if not self._has_thread:
            return True
        reached = threading.Event()
        self._waiting.put(reached)
        return reached.wait(max(0.0, deadline - monotonic()))

    def _run(self) -> None:
        if inspect.iscoroutinefunction(self.function):
            with asyncio.Runner() as runner:
                self._hear(lambda event: runner.run(self.function(event)))
        else:
            self._hear(self.function)

    def _hear(self, hear: Callable[[Event], object]) -> None:
        waiting = self._waiting
        while not (self._is_over and waiting.empty()):
            self._hear_one(hear, waiting.get())
            # Waking for each event alone would cost the event loop more than telling it does.
            sleep(_GATHERING_SECONDS)
            for _ in range(waiting.qsize()):
                self._hear_one(hear, waiting.get())

    def _hear_one(self, hear: Callable[[Event], object], event: Event | threading.Event) -> None:
        if isinstance(event, threading.Event):
            event.set()
            return
        try:
            hear(event)
        except Exception:
            logger.exception("a listener failed", extra=self._name())

    def _name(self) -> dict[str, str]:
        return {"listener": getattr(self.function, "__qualname__", repr(self.function))}


_lock = threading.Lock()
_listening: list[_Listening] = []

#: Listeners by kind of event. Code that emits an event looks here first and skips making it if
#: nobody listens.
wanted: dict[type[Event], tuple[_Listening, ...]] = {}


def listen(function: Listener[E], *kinds: type[E]) -> Listener[E]:
    """Call a function with every event of these kinds from now on; of all kinds if none is named.

    The function is called in its own thread, one event at a time, in the order in which the events
    happened in this process; a coroutine function runs on an event loop in that thread. Its errors
    are logged. If it is too slow, events are dropped.

    Args:
        kinds: Classes of `asynctasq.events`; each includes its subclasses.

    Returns:
        The function, for `unlisten`.
    """
    with _lock:
        _listening.append(_Listening(function, kinds or (Event,)))
        _renew_wanted()
    return function


def unlisten(function: Callable[[Any], Any]) -> None:
    """Stop calling the function, once it has heard the events already waiting for it."""
    with _lock:
        # Compare with ==, not `is`: each access of a method makes a new object.
        for listening in [each for each in _listening if each.function == function]:
            _listening.remove(listening)
            listening.end()
        _renew_wanted()


def is_listening(function: Callable[[Any], Any]) -> bool:
    """Whether the function listens to anything."""
    return any(each.function == function for each in _listening)


def tell(event: Event) -> None:
    """Queue an event for the listeners to its kind; never waits for them."""
    for listening in wanted.get(type(event), ()):
        listening.put(event)


def flush(timeout_seconds: float = 5.0) -> bool:
    """Wait until every listener has heard all events so far; return whether they have."""
    deadline = monotonic() + timeout_seconds
    is_flushed = True
    for listening in tuple(_listening):
        is_flushed &= listening.flush(deadline)
    return is_flushed


def dropped_events() -> int:
    """How many events were dropped because listeners were too slow."""
    return sum(listening.dropped for listening in _listening)


def _renew_wanted() -> None:
    wanted.clear()
    for kind in _all_kinds(Event):
        if concerned := tuple(each for each in _listening if issubclass(kind, each.kinds)):
            wanted[kind] = concerned


def _all_kinds(kind: type[Event]) -> set[type[Event]]:
    return {kind}.union(*(_all_kinds(sub) for sub in kind.__subclasses__()))


# Listener threads die with the interpreter, so give them a moment to hear what is waiting.
atexit.register(flush, LAST_SECONDS)


def _begin_anew() -> None:
    global _lock
    _lock = threading.Lock()
    for listening in _listening:
        listening.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)

"""Kills the process that imports this just before or just after one of its steps.

A step is a statement on a table of the application, a commit, or a call of the broker, and is named
by what it does: `INSERT asynctasq_done`, `COMMIT of INSERT asynctasq_done`, `settle`. What
`FAULT_KILL_AT=settle|2|after` names is the second one of its kind. If it is empty, each step leaves
a line in the file `steps`. Read late: the program that forks the processes has imported this.

`FAULT_KILL_ONCE_AT` has several, divided by semicolons; each kills the first process of all to come
there or, with `parent` for `before`, that process's parent.

What the workers do in turns is done in quick ones, so that nobody waits for them. With
`FAULT_ALL_LEAD` each does it, as one does that was stopped for a while and knows of no other.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from asynctasq.brokers.redis.broker import RedisBroker
from asynctasq.brokers.redis.consumer import RedisConsumer
from asynctasq.brokers.sqlite.broker import SQLiteBroker
from asynctasq.brokers.sqlite.consumer import SQLiteConsumer
from asynctasq.services import running
from asynctasq.services.relay import Relay
from asynctasq_postgres.broker import PostgresBroker
from asynctasq_postgres.consumer import PostgresConsumer

#: Names a step by its method's arguments; `None` for a call that is none.
Name = Callable[..., str | None]

_STATEMENT = re.compile(
    r"\s*(SELECT|INSERT|UPDATE|DELETE)\b.*?\b"
    r"(chains|effects|asynctasq_outbox|asynctasq_done|put_in_transaction|settle_in_transaction)\b",
    re.DOTALL,
)

_lock = threading.Lock()
_reached: Counter[str] = Counter()
_last: dict[object, str] = {}


def statement(sql: object) -> str | None:
    """The step that a statement is; `None` if it is on no table of the application."""
    found = _STATEMENT.match(str(sql))
    if found is None:
        return None
    is_function = found[2].endswith("_in_transaction")
    name = found[2] if is_function else " ".join(found.groups())
    if "SKIP LOCKED" in str(sql):
        name += " SKIP LOCKED"
    if is_function or found[1] != "SELECT":
        _last[_whose()] = name
    return name


def commit(*_: object) -> str:
    """The step that a commit is: by the last that this task or thread has written."""
    return f"COMMIT of {_last.pop(_whose(), 'nothing')}"


def note_doubt(error: Exception, status: str) -> None:
    """Leave a line in the file `doubts`: how a commit failed, and what its handle says then."""
    with open("doubts", "a") as file:
        file.write(f"{status} {type(error).__name__}\n")


def _whose() -> object:
    try:
        return asyncio.current_task() or threading.get_ident()
    except RuntimeError:
        return threading.get_ident()


def _is_it(step: str) -> str:
    """When to be killed at this step; empty if not."""
    wanted = os.environ["FAULT_KILL_AT"]
    with _lock:
        _reached[step] += 1
        if not wanted:
            with open("steps", "a") as file:
                file.write(f"{step}\n")
            return ""
        name, number, when = wanted.split("|")
        if (name, int(number)) == (step, _reached[step]):
            return when
    for kill in filter(None, os.environ.get("FAULT_KILL_ONCE_AT", "").split(";")):
        name, when = kill.split("|")
        if name == step:
            with suppress(FileExistsError), open(f"killed at {kill}", "x"):
                return when
    return ""


def _kill() -> None:
    with open(f"killed-{os.getpid()}", "w"):
        os.kill(os.getpid(), signal.SIGKILL)


def make_deadly(cls: type, method: str, name: Name) -> None:
    """Make each call of a method a step, which ends with what it returned or raised."""
    original = getattr(cls, method)

    @functools.wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        step = name(*args)
        when = _is_it(step) if step else ""
        if when == "parent":
            os.kill(os.getppid(), signal.SIGKILL)
        elif when == "before":
            _kill()
        answer = None
        try:
            answer = original(self, *args, **kwargs)
        finally:
            if when == "after" and not inspect.isawaitable(answer):
                _kill()
        return _awaited(answer) if when == "after" else answer

    setattr(cls, method, call)


async def _awaited(answer: Awaitable[Any]) -> Any:
    try:
        return await answer
    finally:  # also of a call that is cancelled
        _kill()


def _named(name: str) -> Name:
    return lambda *_: name


for _consumer in (RedisConsumer, SQLiteConsumer, PostgresConsumer):
    for _name in ("start", "take", "settle", "renew"):
        make_deadly(_consumer, _name, _named(_name))
for _broker in (RedisBroker, SQLiteBroker, PostgresBroker):
    make_deadly(_broker, "put", _named("put"))
make_deadly(Relay, "_put", _named("put by the relay"))

_leads = running._leads


async def _all_may_lead(*args: Any) -> bool:
    return "FAULT_ALL_LEAD" in os.environ or await _leads(*args)


setattr(running, "_leads", _all_may_lead)  # noqa: B010 - a function
Relay.interval_seconds = 0.2
running._SHORTEST_LEASE_SECONDS = 1.0

"""Kills a worker that imports this at its n-th call of the broker, just before it or just after.

`FAULT_KILL_AT=12:after` says where; `FAULT_BROKER_CALLS` names methods of the broker that count
besides. Without the first the calls are counted: each leaves a line in the
file `calls`. A call counts as made when the broker has done its part and the worker does not know.
"""

from __future__ import annotations

import functools
import inspect
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from asynctasq.brokers.redis.broker import RedisBroker
from asynctasq.brokers.redis.consumer import RedisConsumer
from asynctasq.brokers.sqlite.broker import SQLiteBroker
from asynctasq.brokers.sqlite.consumer import SQLiteConsumer
from asynctasq_postgres.broker import PostgresBroker
from asynctasq_postgres.consumer import PostgresConsumer

CALLS = ("start", "take", "settle", "renew", "idle", "stop")

#: Calls of the broker itself that count too.
BROKER_CALLS = tuple(filter(None, os.environ.get("FAULT_BROKER_CALLS", "").split(",")))

_number, _, _when = os.environ.get("FAULT_KILL_AT", "").partition(":")
_lock = threading.Lock()
_made = 0


def _reached(call: str) -> bool:
    """Count a call; whether it is the one."""
    global _made
    with _lock:
        _made += 1
        if not _number:
            with open("calls", "a") as file:
                file.write(f"{call}\n")
        return str(_made) == _number


def _kill() -> None:
    with open(f"killed-{os.getpid()}", "w"):
        os.kill(os.getpid(), signal.SIGKILL)


def _deadly(method: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def call_async(*args: Any, **kwargs: Any) -> Any:
            is_it = _reached(method.__name__)
            if is_it and _when == "before":
                _kill()
            answer = await method(*args, **kwargs)
            if is_it:
                _kill()
            return answer

        return call_async

    @functools.wraps(method)
    def call(*args: Any) -> Any:
        is_it = _reached(method.__name__)
        if is_it and _when == "before":
            _kill()
        answer = method(*args)
        if is_it:
            _kill()
        return answer

    return call


for _consumer in (RedisConsumer, SQLiteConsumer, PostgresConsumer):
    for _name in CALLS:
        setattr(_consumer, _name, _deadly(getattr(_consumer, _name)))
for _broker in (RedisBroker, SQLiteBroker, PostgresBroker):
    for _name in BROKER_CALLS:
        setattr(_broker, _name, _deadly(getattr(_broker, _name)))

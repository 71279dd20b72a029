"""Forks processes that use a queue file until they are killed.

Forking one that has imported everything takes milliseconds, so that a test can afford hundreds.
Each line on standard input starts one, and its process id is printed:

    work PATH LEASE_SECONDS LOG         take, "run" and settle until killed
    step PATH NUMBER before|after       go through every transition; killed at the given statement
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
import time
from itertools import count
from typing import Any

from asynctasq import SQLiteConfig
from asynctasq.brokers import Action, ConsumerOptions, Delivery, Outcome, Outgoing, WorkerInfo
from asynctasq.brokers.sqlite.broker import SQLiteBroker
from asynctasq.brokers.sqlite.consumer import SQLiteConsumer


def started(path: str, lease_seconds: float) -> tuple[SQLiteBroker, SQLiteConsumer]:
    broker = SQLiteBroker(SQLiteConfig(path=path))
    info = WorkerInfo(f"{os.getpid()}-{time.time_ns()}", "host", os.getpid(), ("q",), 5, 0.0)
    return broker, broker.consumer(ConsumerOptions(info, ("q",), lease_seconds))


async def work(path: str, lease_seconds: float, log_path: str) -> None:
    """Run messages for ever; every third is retried once, every tenth dies and is retried."""
    log = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(what: str, taken: list[Delivery]) -> None:
        lines = (f"\n{os.getpid()} {what} {d.id} {d.body.decode()} whole" for d in taken)
        os.write(log, "".join(lines).encode())  # may be cut short by the kill

    broker, consumer = started(path, lease_seconds)
    await consumer.start()
    while True:
        taken = await consumer.take(5, 1)
        note("ran", taken)
        await asyncio.to_thread(consumer.renew, taken)
        await consumer.settle([outcome_of(delivery) for delivery in taken])
        note("settled", taken)
        for letter in await broker.dead_letters("q"):
            await broker.retry_dead("q", [(letter.id, b"last")])


def outcome_of(delivery: Delivery) -> Outcome:
    number = int(delivery.id)
    if delivery.body == b"first" and number % 10 == 0:
        return Outcome(delivery, Action.DEAD, info=b"why")
    if delivery.body == b"first" and number % 3 == 0:
        return Outcome(delivery, Action.RETRY, b"last", delay=0.01)
    return Outcome(delivery, result=b"result", result_ttl=600)


async def step(path: str) -> None:
    """Every transition once, on a file with messages `done`, `retry`, `dead` and `release`."""
    broker, consumer = started(path, 0.3)
    await consumer.start()
    await broker.put([Outgoing("q", "one", b""), Outgoing("q", "two", b"", time.time() + 0.1)])
    taken = {delivery.id: delivery for delivery in await consumer.take(4, 5)}
    consumer.renew(list(taken.values()))
    await consumer.settle(
        [
            Outcome(taken["done"], result=b"result", result_ttl=600),
            Outcome(taken["retry"], Action.RETRY, b"second", delay=0.2),
            Outcome(taken["dead"], Action.DEAD, info=b"why"),
            Outcome(taken["release"], Action.RELEASE),
        ]
    )
    await broker.cancel("q", "one", b"cancelled", 600)
    await broker.retry_dead("q", [("dead", b"second")])
    await consumer.take(1, 5)
    await consumer.stop()
    await broker.close()


def kill_at(number: int, when: str) -> None:
    """Let this process be killed before or after its statement of this number."""
    numbers = count(1)  # another thread's statement may be under way

    def counting(connection: sqlite3.Connection, method: str, *arguments: Any) -> sqlite3.Cursor:
        mine = next(numbers)
        if mine == number and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        cursor: sqlite3.Cursor = getattr(sqlite3.Connection, method)(connection, *arguments)
        if mine == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return cursor

    class Counting(sqlite3.Connection):
        def execute(self, *arguments: Any) -> sqlite3.Cursor:
            return counting(self, "execute", *arguments)

        def executemany(self, *arguments: Any) -> sqlite3.Cursor:
            return counting(self, "executemany", *arguments)

    connect = sqlite3.connect

    def connect_counting(*arguments: Any, **options: Any) -> sqlite3.Connection:
        return connect(*arguments, factory=Counting, **options)

    sqlite3.connect = connect_counting  # type: ignore[assignment]


def child(arguments: list[str]) -> None:
    if arguments[0] == "work":
        _, path, lease_seconds, log = arguments
        asyncio.run(work(path, float(lease_seconds), log))
    else:
        _, path, number, when = arguments
        kill_at(int(number), when)
        asyncio.run(step(path))


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                child(line.split())
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(0 if sys.exc_info()[0] is None else 1)
        print(pid, flush=True)
        if line.startswith("step"):
            _, status = os.waitpid(pid, 0)
            print(os.waitstatus_to_exitcode(status), flush=True)


main()

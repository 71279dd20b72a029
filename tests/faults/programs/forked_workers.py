"""Runs `asynctasq` in forks of itself, which start in milliseconds.

Each line on standard input is a JSON object with the working directory, the environment and the
arguments of one, or Python code to run instead; its process id is printed. Modules named in the
arguments are imported before; each fork calls the function `forked` of those that have one.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from importlib import import_module
from typing import Any

modules = [import_module(name) for name in sys.argv[1:]]

# What a worker imports anyway; nothing of it starts a thread or opens a connection.
for name in (
    "asyncio",
    "sqlite3",
    "uvloop",
    "redis.asyncio",
    "asyncpg",
    "asynctasq.worker.worker",
    "asynctasq.supervision.run",
    "asynctasq.cli",
    "asynctasq.cli.worker",
    "asynctasq.supervision.supervisor_link",
    "asynctasq.supervision.pages",
    "asynctasq.supervision.probes",
    "asynctasq.supervision.systemd",
    "asynctasq.brokers.memory.driver",
    "asynctasq.brokers.redis.driver",
    "asynctasq.brokers.sqlite.driver",
    "asynctasq.brokers.redis.broker",
    "asynctasq.brokers.sqlite.broker",
    "asynctasq_postgres.broker",
):
    import_module(name)

# A worker collects garbage at its start, which would copy all of this for each fork.
gc.collect()
gc.freeze()


def child(order: dict[str, Any]) -> None:
    """Become `asynctasq` with the arguments of the order."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(order["path"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.path[:0] = order["environment"]["PYTHONPATH"].split(os.pathsep)
    log = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number in (1, 2):
        os.dup2(log, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for module in modules:
        if hasattr(module, "forked"):
            module.forked()
    if "code" in order:
        exec(order["code"], {"__name__": "__main__"})
        return
    sys.argv = ["asynctasq", *order["arguments"]]
    import_module("asynctasq.cli").main()


def main() -> None:
    """Fork until standard input ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them, and no zombie remains
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            child(json.loads(line))
            return  # to the end of the interpreter, where programs do what is left
        print(pid, flush=True)


main()

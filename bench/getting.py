"""The peer for tasks with one instance each: taskiq, whose tasks take a key and get their row.

`drain` fills a queue and starts a worker process, which imports this module with `BENCH_ORM` set.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

from bench import probe
from bench.running import PROJECT, worker

AT_ONCE = 100
COMMAND = (
    *(sys.executable, "-m", "taskiq", "worker", "bench.getting:broker", "--workers", "1"),
    *("--max-async-tasks", str(AT_ONCE), "--no-parse", "--log-level", "WARNING"),
)


def is_installed() -> bool:
    """Whether the peer is in this environment."""
    return all(map(find_spec, ("taskiq", "taskiq_redis", "orjson")))


def _open(redis_url: str, queue: str) -> Any:
    from taskiq.serializers import ORJSONSerializer
    from taskiq_redis import RedisStreamBroker

    made = RedisStreamBroker(redis_url, queue_name=queue, max_connection_pool_size=AT_ONCE)
    return made.with_serializer(ORJSONSerializer())


async def drain(orm: str, redis_url: str, postgres_url: str, keys: list[int]) -> float:
    """Tasks per second of one worker process."""
    from taskiq.kicker import AsyncKicker

    queue = f"getting-{uuid4().hex}"
    sending = _open(redis_url, queue)
    await sending.startup()
    one: AsyncKicker[[int], None] = AsyncKicker("one", sending, {})
    for i in range(0, len(keys), AT_ONCE):
        await asyncio.gather(*(one.kiq(key) for key in keys[i : i + AT_ONCE]))
    await sending.shutdown()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        out = Path(folder) / "out"
        settings = {
            **{"BENCH_ORM": orm, "BENCH_REDIS_URL": redis_url, "BENCH_POSTGRES_URL": postgres_url},
            **{"BENCH_QUEUE": queue, "BENCH_OUT": str(out), "BENCH_N": str(len(keys))},
            "PYTHONPATH": str(PROJECT),
        }
        with worker(COMMAND, os.environ | settings) as process:
            await asyncio.to_thread(process.wait_until, out.exists)
            done = json.loads(out.read_text())
    return (len(keys) - 1) * 1e9 / (done["last_ns"] - done["first_ns"])


if "BENCH_ORM" in os.environ:
    from taskiq import TaskiqEvents

    _orm = importlib.import_module(f"bench.orms.{os.environ['BENCH_ORM']}")
    broker = _open(os.environ["BENCH_REDIS_URL"], os.environ["BENCH_QUEUE"])

    @broker.on_event(TaskiqEvents.WORKER_STARTUP)
    async def connect(_: object) -> None:
        await _orm.connect(os.environ["BENCH_POSTGRES_URL"])

    @broker.task(task_name="one")
    async def one(key: int) -> None:
        row = await _orm.get(key)
        assert row.email
        probe.tick()

"""The limit for tasks with one instance each: a loop over a Redis stream of keys, written by hand.

It takes 100 keys, fetches their rows with one query, starts a coroutine for each row, and
acknowledges the keys. It promises nothing else.
"""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import Redis

from bench.orms import meter

AT_ONCE = 100


async def drain(redis_url: str, orm: Any, keys: list[int]) -> float:
    """Rows per second."""
    async with Redis.from_url(redis_url, protocol=3) as redis:
        await redis.delete("keys")
        await redis.xgroup_create("keys", "g", mkstream=True)
        for i in range(0, len(keys), 500):
            pipeline = redis.pipeline(transaction=False)
            for key in keys[i : i + 500]:
                pipeline.xadd("keys", {"key": key})
            await pipeline.execute()
        meter.expect(len(keys))
        while not meter.done.is_set():
            await _take(redis, orm)
    return (len(keys) - 1) / meter.seconds


async def _take(redis: Redis, orm: Any) -> None:
    reply = await redis.xreadgroup("g", "c", {"keys": ">"}, count=AT_ONCE)
    entries = [entry for chunk in reply.values() for part in chunk for entry in part]
    rows = await orm.fetch([int(fields[b"key"]) for _, fields in entries])
    async with asyncio.TaskGroup() as running:
        for row in rows:
            running.create_task(_run(row))
    pipeline = redis.pipeline(transaction=False)
    pipeline.xack("keys", "g", *(entry for entry, _ in entries))
    pipeline.xdel("keys", *(entry for entry, _ in entries))
    await pipeline.execute()


async def _run(row: Any) -> None:
    assert row.email
    meter.tick()

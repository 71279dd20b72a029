"""No task queue: the least that redis-py, msgpack and asyncio can do with a Redis stream.

The limit to compare with. It acknowledges a task after it ran and promises nothing else: nothing is
retried, recovered, delayed or checked.
"""

from bench import probe, tally
from bench.peers import INSIDE, REDIS_URL, Peer

PEER = Peer(
    name="bare loop",
    requirements=("redis==8.1.0", "hiredis==3.5.0", "uvloop==0.23.0", "msgpack==1.2.4"),
    worker=("-m", "bench.peers.bare", "{concurrency}", "{processes}"),
    settings="reads and acknowledgements gathered",
    delivery="acknowledged after the task, never recovered",
    scale=12,
    is_async=True,
    has_bulk=True,
    gathers=False,  # a connection each, which the server refuses
)

if INSIDE:
    import asyncio
    import contextlib
    import os
    import sys

    import msgpack
    from redis.asyncio import Redis
    from redis.exceptions import ResponseError

    async def noop() -> None:
        probe.tick()

    async def sleep() -> None:
        probe.begin()
        await asyncio.sleep(0.001)
        probe.tick()

    async def latency(sent_ns: int) -> None:
        probe.latency(sent_ns)

    async def shared() -> None:
        tally.note()

    async def large(text: str) -> None: ...

    TASKS = {"noop": noop, "sleep": sleep, "latency": latency, "shared": shared, "large": large}

    class Producer:
        async def open(self) -> None:
            self.redis = Redis.from_url(REDIS_URL, protocol=3)

        async def close(self) -> None:
            await self.redis.aclose()

        async def send(self, kind: str, *args: object) -> None:
            await self.redis.xadd("bare", {"m": msgpack.packb((kind, args))})

        async def send_many(self, kind: str, n: int) -> None:
            pipeline = self.redis.pipeline(transaction=False)
            for _ in range(n):
                pipeline.xadd("bare", {"m": msgpack.packb((kind, ()))})
            await pipeline.execute()

    async def work(at_once: int) -> None:
        redis = Redis.from_url(REDIS_URL, protocol=3)
        with contextlib.suppress(ResponseError):  # another process has made it
            await redis.xgroup_create("bare", "g", "0", mkstream=True)
        consumer = str(os.getpid())
        running: set[asyncio.Task[None]] = set()
        done: list[bytes] = []
        some_done, a_slot = asyncio.Event(), asyncio.Event()

        async def run(entry: bytes, body: bytes) -> None:
            kind, args = msgpack.unpackb(body)
            await TASKS[kind](*args)
            done.append(entry)
            some_done.set()

        async def acknowledge() -> None:
            while await some_done.wait():
                some_done.clear()
                entries = done[:]
                done.clear()
                pipeline = redis.pipeline(transaction=False)
                pipeline.xack("bare", "g", *entries)
                pipeline.xdel("bare", *entries)
                await pipeline.execute()

        def ended(task: asyncio.Task[None]) -> None:
            running.discard(task)
            a_slot.set()

        acknowledging = asyncio.create_task(acknowledge())
        while not acknowledging.done():
            free = at_once - len(running)
            if not free:
                a_slot.clear()
                await a_slot.wait()
                continue
            reply = await redis.xreadgroup("g", consumer, {"bare": ">"}, count=free, block=1000)
            entries = [e for chunk in (reply or {}).values() for part in chunk for e in part]
            for entry, fields in entries:
                task = asyncio.create_task(run(entry, fields[b"m"]))
                running.add(task)
                task.add_done_callback(ended)

    if __name__ == "__main__":
        import uvloop

        at_once, processes = map(int, sys.argv[1:])
        for _ in range(processes - 1):
            if not os.fork():
                break
        uvloop.run(work(at_once))

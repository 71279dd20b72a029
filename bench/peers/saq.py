"""SAQ on Redis."""

from bench import probe
from bench.peers import INSIDE, REDIS_URL, Peer

PEER = Peer(
    name="saq",
    requirements=(
        "saq[redis]==0.26.4",
        "typing_extensions>=4.12",
        "orjson==3.13.0",
        "uvloop==0.23.0",
        "redis==7.4.1",
        "hiredis==3.5.0",
    ),
    worker=("-m", "bench.peers.saq"),
    settings="its default concurrency, orjson, no results kept",
    delivery="acknowledged after the task, swept after the job's timeout",
    concurrency=10,
    is_async=True,
)

if INSIDE:
    import asyncio

    import orjson
    from saq import Queue

    queue = Queue.from_url(REDIS_URL, dump=orjson.dumps, load=orjson.loads)

    async def noop(ctx) -> None:
        probe.tick()

    async def sleep(ctx) -> None:
        probe.begin()
        await asyncio.sleep(0.001)
        probe.tick()

    async def latency(ctx, *, sent_ns: int) -> None:
        probe.latency(sent_ns)

    settings = {"queue": queue, "functions": [noop, sleep, latency], "concurrency": 10}

    class Producer:
        async def open(self) -> None:
            await queue.connect()

        async def close(self) -> None:
            await queue.disconnect()

        async def send(self, kind: str, *args: object) -> None:
            more = {"sent_ns": args[0]} if args else {}
            await queue.enqueue(kind, ttl=-1, **more)

    if __name__ == "__main__":
        import uvloop
        from saq.worker import start

        uvloop.install()
        start("bench.peers.saq.settings")

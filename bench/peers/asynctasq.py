"""This project, through its public names, with nothing tuned."""

from bench import probe
from bench.peers import INSIDE, REDIS_URL, Peer

PEER = Peer(
    name="asynctasq",
    requirements=(
        "{project}/packages/asynctasq-core",
        "redis==8.1.0",
        "hiredis==3.5.0",
        "uvloop==0.23.0",
    ),
    worker=("-m", "asynctasq", "worker", "bench.peers.asynctasq", "--concurrency", "100"),
    settings="concurrency 100",
    delivery="leased, acknowledged after the task, delivered again within the lease",
    is_async=True,
)

if INSIDE:
    import asyncio

    import asynctasq

    asynctasq.init(driver="redis", redis=asynctasq.RedisConfig(url=REDIS_URL))

    @asynctasq.task
    async def noop() -> None:
        probe.tick()

    @asynctasq.task
    async def sleep() -> None:
        probe.begin()
        await asyncio.sleep(0.001)
        probe.tick()

    @asynctasq.task
    async def latency(sent_ns: int) -> None:
        probe.latency(sent_ns)

    TASKS = {"noop": noop, "sleep": sleep, "latency": latency}

    class Producer:
        async def open(self) -> None: ...

        async def close(self) -> None: ...

        async def send(self, kind: str, *args: int) -> None:
            await TASKS[kind](*args).dispatch()

        async def send_many(self, kind: str, n: int) -> None:
            await asynctasq.dispatch_many([TASKS[kind]() for _ in range(n)])

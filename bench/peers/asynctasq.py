"""This project, through its public names, with nothing tuned and all adapters installed."""

from bench import probe, tally
from bench.peers import INSIDE, REDIS_URL, Peer

PEER = Peer(
    name="asynctasq",
    requirements=(
        "{project}/packages/asynctasq-core",
        "{project}/packages/asynctasq-sqlalchemy",
        "{project}/packages/asynctasq-django",
        "{project}/packages/asynctasq-tortoise",
        "redis==8.1.0",
        "hiredis==3.5.0",
        "uvloop==0.23.0",
    ),
    worker=(
        *("-m", "asynctasq", "worker", "bench.peers.asynctasq"),
        *("--concurrency", "{concurrency}", "--processes", "{processes}"),
    ),
    settings="nothing tuned",
    delivery="leased, acknowledged after the task, delivered again within the lease",
    scale=12,
    is_async=True,
    has_bulk=True,
    # Where listeners are installed as well, they would cost each task something.
    environment={"ASYNCTASQ_PLUGINS": "sqlalchemy,django,tortoise"},
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

    @asynctasq.task
    async def compute() -> None:
        probe.compute()

    @asynctasq.task
    def compute_in_thread() -> None:
        probe.compute()

    @asynctasq.task
    async def shared() -> None:
        tally.note()

    @asynctasq.task(process=True)
    def child() -> None:
        tally.note()

    @asynctasq.task
    async def large(text: str) -> None: ...

    TASKS = {
        task.name.rpartition(".")[2]: task
        for task in (
            *(noop, sleep, latency, compute, compute_in_thread),
            *(shared, child, large),
        )
    }

    class Producer:
        async def open(self) -> None: ...

        async def close(self) -> None: ...

        async def send(self, kind: str, *args: object) -> None:
            await TASKS[kind](*args).dispatch()

        async def send_many(self, kind: str, n: int) -> None:
            await asynctasq.dispatch_many([TASKS[kind]() for _ in range(n)])

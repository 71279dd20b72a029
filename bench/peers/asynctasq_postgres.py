"""This project on PostgreSQL, through its public names, with nothing tuned."""

from bench import probe
from bench.peers import INSIDE, POSTGRES_URL, Peer

PEER = Peer(
    name="asynctasq",
    requirements=(
        "{project}/packages/asynctasq-core",
        "{project}/packages/asynctasq-postgres",
        "asyncpg==0.31.0",
        "uvloop==0.23.0",
    ),
    worker=(
        *("-m", "asynctasq", "worker", "bench.peers.asynctasq_postgres"),
        *("--concurrency", "{concurrency}", "--processes", "{processes}"),
    ),
    settings="nothing tuned",
    delivery="leased, acknowledged after the task, delivered again within the lease",
    scale=12,
    is_async=True,
    has_bulk=True,
)

if INSIDE:
    import asynctasq

    asynctasq.init({"postgres": POSTGRES_URL})

    @asynctasq.task
    async def noop() -> None:
        probe.tick()

    @asynctasq.task
    async def latency(sent_ns: int) -> None:
        probe.latency(sent_ns)

    TASKS = {"noop": noop, "latency": latency}

    class Producer:
        async def open(self) -> None: ...

        async def close(self) -> None: ...

        async def send(self, kind: str, *args: object) -> None:
            await TASKS[kind](*args).dispatch()

        async def send_many(self, kind: str, n: int) -> None:
            await asynctasq.dispatch_many([TASKS[kind]() for _ in range(n)])

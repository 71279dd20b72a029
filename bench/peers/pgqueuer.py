"""pgqueuer."""

from bench import probe
from bench.peers import INSIDE, POSTGRES_URL, Peer

PEER = Peer(
    name="pgqueuer",
    requirements=("pgqueuer==1.6.0", "asyncpg==0.31.0", "uvloop==0.23.0"),
    worker=("-m", "bench.peers.pgqueuer", "{concurrency}"),
    settings="batch_size 50, the most for 100 at once",
    delivery="deleted after the task, taken again by heartbeat",
    is_async=True,
    has_bulk=True,
    gathers=False,  # one connection
)

if INSIDE:
    import sys

    import asyncpg
    from pgqueuer import PgQueuer
    from pgqueuer.db import AsyncpgDriver
    from pgqueuer.models import Job
    from pgqueuer.queries import Queries

    async def connect() -> AsyncpgDriver:
        """The driver, its tables made."""
        connection = await asyncpg.connect(POSTGRES_URL)
        if await connection.fetchval("SELECT to_regclass('pgqueuer')") is None:
            await Queries(AsyncpgDriver(connection)).install()
        return AsyncpgDriver(connection)

    class Producer:
        async def open(self) -> None:
            self.queries = Queries(await connect())

        async def close(self) -> None: ...

        async def send(self, kind: str, *args: object) -> None:
            await self.queries.enqueue(kind, str(args[0]).encode() if args else None)

        async def send_many(self, kind: str, n: int) -> None:
            await self.queries.enqueue([kind] * n, [None] * n, [0] * n)

    async def work(at_once: int) -> None:
        queue = PgQueuer(await connect())

        @queue.entrypoint("noop")
        async def noop(job: Job) -> None:
            probe.tick()

        @queue.entrypoint("latency")
        async def latency(job: Job) -> None:
            probe.latency(int(job.payload or b"0"))

        await queue.run(batch_size=at_once // 2, max_concurrent_tasks=at_once)

    if __name__ == "__main__":
        import uvloop

        uvloop.run(work(int(sys.argv[1])))

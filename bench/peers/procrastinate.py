"""procrastinate."""

from bench import probe
from bench.peers import INSIDE, POSTGRES_URL, Peer

PEER = Peer(
    name="procrastinate",
    requirements=("procrastinate==3.10.0", "psycopg[binary,pool]==3.3.4", "uvloop==0.23.0"),
    worker=("-m", "bench.peers.procrastinate", "{concurrency}"),
    settings="jobs deleted once they have succeeded",
    delivery="marked as done after the task; stalled jobs are for the application to find",
    is_async=True,
    has_bulk=True,
)

if INSIDE:
    import asyncio
    import sys

    from procrastinate import App, PsycopgConnector

    app = App(connector=PsycopgConnector(conninfo=POSTGRES_URL))

    @app.task
    async def noop() -> None:
        probe.tick()

    @app.task
    async def latency(sent_ns: int) -> None:
        probe.latency(sent_ns)

    TASKS = {"noop": noop, "latency": latency}

    async def make_tables() -> None:
        if not await app.check_connection_async():
            await app.schema_manager.apply_schema_async()

    class Producer:
        async def open(self) -> None:
            await app.open_async()
            await make_tables()

        async def close(self) -> None:
            await app.close_async()

        async def send(self, kind: str, *args: int) -> None:
            await TASKS[kind].defer_async(**({"sent_ns": args[0]} if args else {}))

        async def send_many(self, kind: str, n: int) -> None:
            await TASKS[kind].batch_defer_async(*[{} for _ in range(n)])

    async def work(at_once: int) -> None:
        async with app.open_async():
            await make_tables()
            await app.run_worker_async(concurrency=at_once, delete_jobs="successful")

    if __name__ == "__main__":
        # Tasks are named by their module, which here is another.
        from bench.peers import procrastinate

        asyncio.run(procrastinate.work(int(sys.argv[1])))

"""No task queue: the least that asyncpg, msgpack and asyncio can do with a table.

The limit to compare with. It claims up to 100 rows with one statement, which deletes them from the
table of what waits, and settles 100 with one that deletes them for good. It promises nothing else:
nothing is retried, recovered, delayed or checked.
"""

from bench import probe
from bench.peers import INSIDE, POSTGRES_URL, Peer

PEER = Peer(
    name="bare loop",
    requirements=("asyncpg==0.31.0", "uvloop==0.23.0", "msgpack==1.2.4"),
    worker=("-m", "bench.peers.bare_postgres", "{concurrency}"),
    settings="claims and settles 100 at a time",
    delivery="deleted after the task, never recovered",
    scale=12,
    is_async=True,
    has_bulk=True,
    gathers=False,  # one connection
)

if INSIDE:
    import asyncio
    import sys
    from collections.abc import Awaitable, Callable

    import asyncpg
    import msgpack

    TABLES = """
        CREATE TABLE IF NOT EXISTS waiting (id bigserial PRIMARY KEY, body bytea NOT NULL);
        CREATE TABLE IF NOT EXISTS running (id bigint PRIMARY KEY, body bytea NOT NULL);
    """
    CLAIM = """
        WITH claimed AS (
            DELETE FROM waiting WHERE id = ANY (ARRAY(
                SELECT id FROM waiting ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED))
            RETURNING id, body)
        INSERT INTO running SELECT id, body FROM claimed RETURNING id, body
    """
    SETTLE = "DELETE FROM running WHERE id = ANY ($1)"

    async def noop() -> None:
        probe.tick()

    async def latency(sent_ns: int) -> None:
        probe.latency(sent_ns)

    TASKS: dict[str, Callable[..., Awaitable[None]]] = {"noop": noop, "latency": latency}

    class Producer:
        async def open(self) -> None:
            self.connection = await asyncpg.connect(POSTGRES_URL)
            await self.connection.execute(TABLES)

        async def close(self) -> None:
            await self.connection.close()

        async def send(self, kind: str, *args: object) -> None:
            await self._insert([msgpack.packb((kind, args))])

        async def send_many(self, kind: str, n: int) -> None:
            await self._insert([msgpack.packb((kind, ())) for _ in range(n)])

        async def _insert(self, bodies: list[bytes]) -> None:
            sql = "INSERT INTO waiting (body) SELECT unnest($1::bytea[])"
            await self.connection.execute(sql, bodies)
            await self.connection.execute("NOTIFY waiting")

    async def work(at_once: int) -> None:
        taking, settling = [await asyncpg.connect(POSTGRES_URL) for _ in range(2)]
        await taking.execute(TABLES)
        running: set[asyncio.Task[None]] = set()
        done: list[int] = []
        some_done, a_slot, something = asyncio.Event(), asyncio.Event(), asyncio.Event()
        await settling.add_listener("waiting", lambda *_: something.set())

        async def run(row: int, body: bytes) -> None:
            kind, args = msgpack.unpackb(body)
            await TASKS[kind](*args)
            done.append(row)
            some_done.set()

        async def settle() -> None:
            while await some_done.wait():
                some_done.clear()
                rows, done[:] = done[:], []
                await settling.execute(SETTLE, rows)

        def ended(task: asyncio.Task[None]) -> None:
            running.discard(task)
            a_slot.set()

        settler = asyncio.create_task(settle())
        while not settler.done():
            free = at_once - len(running)
            if not free:
                a_slot.clear()
                await a_slot.wait()
                continue
            something.clear()
            rows = await taking.fetch(CLAIM, free)
            for row, body in rows:
                task = asyncio.create_task(run(row, body))
                running.add(task)
                task.add_done_callback(ended)
            if not rows:
                try:
                    await asyncio.wait_for(something.wait(), 1)
                except TimeoutError:
                    continue

    if __name__ == "__main__":
        import uvloop

        uvloop.run(work(int(sys.argv[1])))

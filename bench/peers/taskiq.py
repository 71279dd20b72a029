"""taskiq with taskiq-redis: a stream, acknowledged."""

from bench import probe
from bench.peers import INSIDE, REDIS_URL, Peer

PEER = Peer(
    name="taskiq",
    requirements=(
        "taskiq==0.13.0",
        "taskiq-redis==1.2.4",
        "orjson==3.13.0",
        "uvloop==0.23.0",
        "redis==8.1.0",
        "hiredis==3.5.0",
    ),
    worker=(
        *("-m", "taskiq", "worker", "bench.peers.taskiq:broker", "--workers", "1"),
        *("--max-async-tasks", "{concurrency}", "--no-parse", "--log-level", "WARNING"),
    ),
    settings="RedisStreamBroker, orjson, no results, log level WARNING",
    delivery="acknowledged after the task",
    is_async=True,
)

if INSIDE:
    import asyncio

    from taskiq.serializers import ORJSONSerializer
    from taskiq_redis import RedisStreamBroker

    broker = RedisStreamBroker(REDIS_URL, max_connection_pool_size=100).with_serializer(
        ORJSONSerializer()
    )

    @broker.task(task_name="noop")
    async def noop() -> None:
        probe.tick()

    @broker.task(task_name="sleep")
    async def sleep() -> None:
        probe.begin()
        await asyncio.sleep(0.001)
        probe.tick()

    @broker.task(task_name="latency")
    async def latency(sent_ns: int) -> None:
        probe.latency(sent_ns)

    @broker.task(task_name="compute")
    async def compute() -> None:
        probe.compute()

    @broker.task(task_name="compute_in_thread")
    def compute_in_thread() -> None:
        probe.compute()

    TASKS = {
        "noop": noop,
        "sleep": sleep,
        "latency": latency,
        "compute": compute,
        "compute_in_thread": compute_in_thread,
    }

    class Producer:
        async def open(self) -> None:
            await broker.startup()

        async def close(self) -> None:
            await broker.shutdown()

        async def send(self, kind: str, *args: object) -> None:
            await TASKS[kind].kiq(*args)

"""huey on Redis."""

from bench import probe, tally
from bench.peers import INSIDE, REDIS_URL, Peer

PEER = Peer(
    name="huey",
    requirements=("huey==3.5.4", "redis==8.1.0", "hiredis==3.5.0"),
    worker=(
        *("-m", "huey.bin.huey_consumer", "bench.peers.huey.huey"),
        *("-k", "thread", "-w", "{concurrency}", "-n", "-q"),
    ),
    settings="RedisHuey, threads, no results, no periodic tasks",
    delivery="removed before the task runs: a killed worker loses it",
    concurrency=1,
    acknowledges=False,
)

if INSIDE:
    from huey import RedisHuey

    huey = RedisHuey("bench", url=REDIS_URL, results=False)

    @huey.task(name="noop")
    def noop() -> None:
        probe.tick()

    @huey.task(name="latency")
    def latency(sent_ns: int) -> None:
        probe.latency(sent_ns)

    @huey.task(name="child")
    def child() -> None:
        tally.note()

    @huey.task(name="large")
    def large(text: str) -> None: ...

    TASKS = {"noop": noop, "latency": latency, "child": child, "large": large}

    class Producer:
        def open(self) -> None: ...

        def close(self) -> None:
            huey.storage.close()

        def send(self, kind: str, *args: object) -> None:
            TASKS[kind](*args)

"""Dramatiq on Redis."""

from bench import probe
from bench.peers import INSIDE, REDIS_URL, Peer

PEER = Peer(
    name="dramatiq",
    requirements=("dramatiq[redis]==2.2.1", "redis==8.1.0", "hiredis==3.5.0"),
    worker=("-m", "dramatiq", "bench.peers.dramatiq", "-p", "1", "-t", "{concurrency}"),
    settings="threads, default middleware",
    delivery="acknowledged after the task",
    concurrency=8,
)

if INSIDE:
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker

    dramatiq.set_broker(RedisBroker(url=REDIS_URL))
    noop = dramatiq.actor(lambda: probe.tick(), actor_name="noop")
    latency = dramatiq.actor(lambda sent_ns: probe.latency(sent_ns), actor_name="latency")
    compute = dramatiq.actor(lambda: probe.compute(), actor_name="compute_in_thread")
    TASKS = {"noop": noop, "latency": latency, "compute_in_thread": compute}

    class Producer:
        def open(self) -> None: ...

        def close(self) -> None:
            dramatiq.get_broker().close()

        def send(self, kind: str, *args: object) -> None:
            TASKS[kind].send(*args)

"""RQ with the worker that does not fork."""

from bench import probe
from bench.peers import INSIDE, REDIS_URL, Peer

PEER = Peer(
    name="rq",
    requirements=("rq==3.0.0", "redis==8.1.0", "hiredis==3.5.0"),
    worker=("-m", "bench.peers.rq"),
    settings="SimpleWorker, no results kept, log level WARNING",
    delivery="kept in a registry of started jobs",
    concurrency=1,
    has_bulk=True,
)


def noop() -> None:
    probe.tick()


def latency(sent_ns: int) -> None:
    probe.latency(sent_ns)


if INSIDE:
    from redis import Redis
    from rq import Queue

    # Named by path, since this module is __main__ in the worker.
    PATH = "bench.peers.rq."

    class Producer:
        def open(self) -> None:
            self.redis = Redis.from_url(REDIS_URL)
            self.queue = Queue("bench", connection=self.redis)

        def close(self) -> None:
            self.redis.close()

        def send(self, kind: str, *args: object) -> None:
            self.queue.enqueue(PATH + kind, *args, result_ttl=0)

        def send_many(self, kind: str, n: int) -> None:
            jobs = [Queue.prepare_data(PATH + kind, result_ttl=0) for _ in range(n)]
            self.queue.enqueue_many(jobs)

    if __name__ == "__main__":
        import sys

        from rq.cli import main

        sys.argv = [
            *("rq", "worker", "-u", REDIS_URL, "-w", "rq.worker.SimpleWorker"),
            *("--logging_level", "WARNING", "bench"),
        ]
        main()

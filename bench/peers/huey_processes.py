"""huey on Redis, with tasks in two child processes."""

from dataclasses import replace

from bench.peers import INSIDE
from bench.peers import huey as threads

PEER = replace(
    threads.PEER,
    worker=(
        *("-m", "huey.bin.huey_consumer", "bench.peers.huey.huey"),
        *("-k", "process", "-w", "{concurrency}", "-n", "-q"),
    ),
    settings="RedisHuey, processes, no results, no periodic tasks",
)

if INSIDE:
    Producer = threads.Producer

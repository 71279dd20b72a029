"""Which workers are alive, as they say themselves, and which queues there are."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict

from .. import ConsumerOptions, WorkerInfo
from .keys import Keys
from .scripts import ANNOUNCE, RUNNING, WORKERS, Command
from .server import Server


def announcement(keys: Keys, options: ConsumerOptions) -> Command:
    """A sign of life that holds for the worker's lease."""
    return ANNOUNCE(
        (keys.alive, keys.workers, keys.queues),
        options.worker.id,
        round(options.lease_seconds * 1000),
        json.dumps(asdict(options.worker)),
        *options.queues,
    )


def withdrawal(keys: Keys, worker_id: str) -> Command:
    """The end of a worker's signs of life."""
    return ANNOUNCE((keys.alive, keys.workers, keys.queues), worker_id, 0, b"")


async def alive_workers(server: Server, keys: Keys) -> list[WorkerInfo]:
    """The workers within their lease, each with the number of messages that it holds."""
    texts = await server.insist(keys.workers, WORKERS((keys.alive, keys.workers)))
    described = [json.loads(text) for text in texts if text]
    held: Counter[str] = Counter()
    streams = {keys.of(queue).stream for fields in described for queue in fields["queues"]}
    calls = [(stream, RUNNING((stream,))) for stream in streams]
    for counts in await server.insist_many(calls) if calls else ():
        for consumer, number in zip(counts[::2], counts[1::2], strict=True):
            held[consumer.decode().rpartition("~")[0]] += number
    return [
        WorkerInfo(**fields | {"queues": tuple(fields["queues"]), "running": held[fields["id"]]})
        for fields in described
    ]

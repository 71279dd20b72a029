"""The registry of live workers and known queues; workers announce themselves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace

from .. import ConsumerOptions, WorkerInfo
from .keys import Keys
from .scripts import ANNOUNCE, RELEASE, RUNNING, WORKERS, Command
from .server import Server

#: Maximum messages that one script call releases.
_RELEASED_AT_ONCE = 500


def announcement(keys: Keys, options: ConsumerOptions) -> Command:
    """A sign of life that lasts as long as the worker's lease."""
    return ANNOUNCE(
        (keys.alive, keys.workers, keys.queues),
        options.worker.id,
        round(options.lease_seconds * 1000),
        json.dumps(asdict(options.worker)),
        *options.queues,
    )


def withdrawal(keys: Keys, worker_id: str) -> Command:
    """Removes a worker from the registry."""
    return ANNOUNCE((keys.alive, keys.workers, keys.queues), worker_id, 0, b"")


async def alive_workers(server: Server, keys: Keys) -> list[WorkerInfo]:
    """The workers within their lease, each with its number of running messages."""
    texts = await server.insist(keys.workers, WORKERS((keys.alive, keys.workers)))
    described = [info for text in texts if text and (info := _described(text))]
    held: Counter[str] = Counter()
    held_of = {keys.of(queue) for info in described for queue in info.queues}
    requests = [(each.stream, RUNNING((each.stream, each.admitted))) for each in held_of]
    for counts in await server.insist_many(requests) if requests else ():
        for consumer, number in zip(counts[::2], counts[1::2], strict=True):
            held[consumer.decode("utf-8", "replace").rpartition("~")[0]] += number
    return [replace(info, running=held[info.id]) for info in described]


def _described(text: bytes) -> WorkerInfo | None:
    """The worker, or `None` if something other than `announcement` wrote the text."""
    try:
        fields = json.loads(text)
        info = WorkerInfo(**fields | {"queues": tuple(fields["queues"]), "running": 0})
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    texts = (info.id, info.host, *info.queues)
    numbers = (info.pid, info.concurrency, info.started_at)
    is_sound = all(isinstance(t, str) and t.isprintable() for t in texts)
    return info if is_sound and all(isinstance(n, int | float) for n in numbers) else None


async def release_worker(
    send: Callable[[bytes, Command], Awaitable[int]],
    stream: bytes,
    worker_id: str,
    *,
    taken_back: int,
) -> int:
    """Release all messages that a worker holds in a stream; return how many.

    Args:
        taken_back: 1 to not count these deliveries, else 0.
    """
    total = 0
    while True:
        released = await send(stream, RELEASE((stream,), worker_id, taken_back, _RELEASED_AT_ONCE))
        total += released
        if released < _RELEASED_AT_ONCE:
            return total

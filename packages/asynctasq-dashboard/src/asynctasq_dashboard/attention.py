"""What needs somebody's attention, in a sentence with a link to the place to look."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from glob import escape
from itertools import chain
from time import time

from asynctasq.history import Minute
from asynctasq.looking import Backlog, QueueStats, WorkerInfo
from asynctasq.pausing import Pause

from .charts import by_task
from .text import duration, number

#: Starts later than this, or an outbox whose oldest call is older, are a problem.
LATE_SECONDS = 60.0

#: Number of minutes that count as now.
_LATELY = 10

#: Maximum number of problems of one kind to name.
_MOST = 5


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong.

    Attributes:
        page: The page that shows more.
        parameters: Parameters of that page.
    """

    text: str
    page: str
    parameters: dict[str, str]
    is_bad: bool = True


def problems(
    queues: Sequence[QueueStats],
    workers: Sequence[WorkerInfo],
    kept: Sequence[Minute],
    outboxes: Sequence[Backlog],
    pauses: Sequence[Pause],
) -> list[Problem]:
    """Everything that is wrong now, the first few of each kind."""
    kinds: Iterable[Iterable[Problem]] = (
        _unserved(queues, workers),
        _blocked(workers),
        _held_back(pauses),
        _late(kept),
        _given_up(kept),
        _stuck(outboxes),
    )
    return list(chain.from_iterable(list(kind)[:_MOST] for kind in kinds))


def _unserved(queues: Sequence[QueueStats], workers: Sequence[WorkerInfo]) -> Iterable[Problem]:
    served = set(chain.from_iterable(worker.queues for worker in workers))
    for queue in sorted(queues, key=lambda queue: -queue.waiting):
        if queue.waiting and queue.name not in served:
            calls = "call waits" if queue.waiting == 1 else "calls wait"
            yield Problem(
                f"{number(queue.waiting)} {calls} in {queue.name!r}, which no worker serves",
                "/queues",
                {"search": queue.name},
            )


def _blocked(workers: Sequence[WorkerInfo]) -> Iterable[Problem]:
    for worker in workers:
        if worker.is_blocked:
            yield Problem(
                f"a task blocks the event loop of {worker.host}, process {worker.pid}",
                "/workers",
                {},
            )


def _held_back(pauses: Sequence[Pause]) -> Iterable[Problem]:
    for pause in pauses:
        what = f"{pause.what} on {pause.queue!r}" if pause.task else f"queue {pause.queue!r}"
        since = duration(max(0.0, time() - pause.since))
        yield Problem(
            f"{what} is paused for {since}, by {pause.by}",
            "/queues",
            {"search": pause.queue},
            is_bad=False,
        )


def _late(kept: Sequence[Minute]) -> Iterable[Problem]:
    lately = [minute for minute in kept if minute.at > time() - 60 * _LATELY]
    for line in by_task(lately):
        if line.counts.latest_seconds >= LATE_SECONDS:
            yield Problem(
                f"{line.task} on {line.queue!r} began up to "
                f"{duration(line.counts.latest_seconds)} late in the last {_LATELY} minutes",
                "/keys",
                {"queue": line.queue},
                is_bad=False,
            )


def _given_up(kept: Sequence[Minute]) -> Iterable[Problem]:
    lines = sorted(by_task(kept), key=lambda line: -line.counts.dead)
    for line in lines:
        if line.counts.dead:
            calls, were = ("call", "was") if line.counts.dead == 1 else ("calls", "were")
            yield Problem(
                f"{number(line.counts.dead)} {calls} of {line.task} {were} given up "
                f"in the last hour",
                "/dead",
                {"task": escape(line.task)},
                is_bad=False,
            )


def _stuck(outboxes: Sequence[Backlog]) -> Iterable[Problem]:
    for outbox in outboxes:
        if outbox.missing:
            yield Problem(f"the outbox of {outbox.database!r} cannot be read", "/", {})
        elif outbox.oldest_seconds is not None and outbox.oldest_seconds >= LATE_SECONDS:
            yield Problem(
                f"a call lies in the outbox of {outbox.database!r} for "
                f"{duration(outbox.oldest_seconds)}",
                "/",
                {},
            )

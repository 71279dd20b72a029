"""Counts what happens, as a listener to asynctasq's events.

Owns the rule that nothing written to a queue can create more than a bounded number of series.
"""

from __future__ import annotations

from functools import cache

from asynctasq import listen
from asynctasq.events import (
    Called,
    Dispatched,
    RunCancelled,
    RunFailed,
    RunPostponed,
    RunReleased,
    RunSkipped,
    RunStarted,
    RunSucceeded,
)
from prometheus_client import Counter, Histogram

from .labels import labels_of

#: From fast tasks to tasks that take an hour.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)

DISPATCHED = Counter("asynctasq_dispatched", "Calls that the broker has taken.", ["task", "queue"])
STARTED = Counter("asynctasq_runs_started", "Runs that have begun.", ["task", "queue"])
ENDED = Counter(
    "asynctasq_runs_ended",
    "Runs that have ended, by outcome: succeeded, skipped, retried, dead, postponed, released or "
    "cancelled.",
    ["task", "queue", "outcome"],
)
DURATION = Histogram(
    "asynctasq_run_duration_seconds",
    "From the start of a run, fetching its rows included, to its end.",
    ["task", "queue"],
    buckets=BUCKETS,
)
WAIT = Histogram(
    "asynctasq_wait_seconds",
    "From a call's dispatch to the start of its first run, a delay that was asked for included.",
    ["task", "queue"],
    buckets=BUCKETS,
)

DROPPED = Counter(
    "asynctasq_events_dropped", "Events that came too fast to be counted in the other metrics."
)

_OUTCOMES: dict[type[Called], str] = {
    RunSucceeded: "succeeded",
    RunSkipped: "skipped",
    RunPostponed: "postponed",
    RunReleased: "released",
    RunCancelled: "cancelled",
}

_is_measuring = False


def measure() -> None:
    """Measure in this process from now on, in the default registry of prometheus-client.

    A worker with `--metrics-port` does so by itself; call this in an application that dispatches
    and has its own metrics page. Calling it again is harmless.
    """
    global _is_measuring
    if not _is_measuring:
        _is_measuring = True
        listen(note, Called)


def is_measuring() -> bool:
    """Whether `measure` has been called."""
    return _is_measuring


@cache
def _dispatched(task: str, queue: str) -> Counter:
    return DISPATCHED.labels(task, queue)


@cache
def _begun(task: str, queue: str) -> tuple[Counter, Histogram]:
    return STARTED.labels(task, queue), WAIT.labels(task, queue)


@cache
def _over(task: str, queue: str, outcome: str) -> tuple[Counter, Histogram]:
    return ENDED.labels(task, queue, outcome), DURATION.labels(task, queue)


def note(event: Called) -> None:
    """Count an event."""
    # Each `labels()` takes a lock and as long as counting does, so what it gives is kept.
    labels = labels_of(event)
    if type(event) is RunStarted:
        started, wait = _begun(*labels)
        started.inc()
        if event.attempt == 1 and event.deliveries == 1:
            wait.observe(max(0.0, event.at - event.enqueued_at))
    elif isinstance(event, RunStarted):
        ended, duration = _over(*labels, _outcome(event))
        ended.inc()
        seconds = event.at - getattr(event, "started_at", event.at)
        if seconds > 0:  # otherwise it could not run
            duration.observe(seconds)
    elif isinstance(event, Dispatched):
        _dispatched(*labels).inc()


def _outcome(event: RunStarted) -> str:
    if isinstance(event, RunFailed):
        return "retried" if event.will_retry else "dead"
    return _OUTCOMES[type(event)]

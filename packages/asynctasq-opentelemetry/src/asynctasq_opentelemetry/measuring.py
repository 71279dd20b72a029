"""Records metrics, as a listener to asynctasq's events."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

from asynctasq.events import (
    Called,
    Dispatched,
    Event,
    RunCancelled,
    RunFailed,
    RunPostponed,
    RunReleased,
    RunSkipped,
    RunStarted,
    RunSucceeded,
)
from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from . import __version__
from .attributes import ERROR_TYPE, OUTCOME, Attributes, error_type, of_operation

#: Maximum number of tasks and queues that are counted apart, and the name of the rest: an
#: application may make a queue for each tenant.
MOST, OTHER = 2000, "(other)"

#: The arguments of `of_operation`.
_Operation = tuple[str, str, str, str]

#: Attributes by operation; a queue may hold any number of names, so only those of late are kept.
_attributes = lru_cache(500)(of_operation)

_meter = metrics.get_meter("asynctasq", __version__)

#: Calls sent and runs begun so far, by the attributes of the operation. A counter of the SDK takes
#: longer to add one than a worker takes for all else about an event, so it is only asked for sums.
_counts: dict[str, dict[_Operation, int]] = {"dispatch": {}, "run": {}}


def _observed(name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
    counts = _counts[name]

    def observe(options: CallbackOptions) -> Iterable[Observation]:
        for operation, count in list(counts.items()):
            yield Observation(count, _attributes(*operation))

    return observe


_meter.create_observable_counter(
    "messaging.client.sent.messages",
    [_observed("dispatch")],
    "{message}",
    "Calls that the broker has taken.",
)
_meter.create_observable_counter(
    "messaging.client.consumed.messages",
    [_observed("run")],
    "{message}",
    "Runs that have begun.",
)
_duration = _meter.create_histogram(
    "messaging.process.duration",
    "s",
    "From the start of a run, fetch of rows included, to its end.",
)
_wait = _meter.create_histogram(
    "asynctasq.wait.duration",
    "s",
    "From a call's dispatch to the start of its first run, a delay that was asked for included.",
)

_OUTCOMES: dict[type[Event], str] = {
    RunSucceeded: "succeeded",
    RunSkipped: "skipped",
    RunPostponed: "postponed",
    RunReleased: "released",
    RunCancelled: "cancelled",
}


def note(event: Event) -> None:
    """Count an event of a call."""
    if type(event) is RunStarted:
        operation = _count("run", "process", event)
        if event.attempt == 1 and event.deliveries == 1:
            _wait.record(max(0.0, event.at - event.enqueued_at), _attributes(*operation))
    elif isinstance(event, RunStarted):
        seconds = event.at - getattr(event, "started_at", event.at)
        if seconds > 0:  # otherwise it could not run
            _duration.record(seconds, _ending(event))
    elif isinstance(event, Dispatched):
        _count("dispatch", "create", event)


def _count(name: str, kind: str, event: Called) -> _Operation:
    operation, counts = (name, kind, event.task, event.queue), _counts[name]
    if operation not in counts and len(counts) >= MOST:
        operation = (name, kind, OTHER, OTHER)
    counts[operation] = counts.get(operation, 0) + 1
    return operation


def _ending(event: RunStarted) -> Attributes:
    attributes = _attributes("run", "process", event.task, event.queue)
    if isinstance(event, RunFailed):
        ending = {OUTCOME: "retried" if event.will_retry else "dead"}
        ending[ERROR_TYPE] = "_OTHER" if event.error is None else error_type(event.error)
    else:
        ending = {OUTCOME: _OUTCOMES[type(event)]}
    return {**attributes, **ending}

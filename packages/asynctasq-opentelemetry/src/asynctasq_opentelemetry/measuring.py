"""Records metrics, as a listener to asynctasq's events."""

from __future__ import annotations

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

from . import __version__
from .attributes import ERROR_TYPE, OUTCOME, Attributes, error_type, of_operation

_meter = metrics.get_meter("asynctasq", __version__)

_sent = _meter.create_counter(
    "messaging.client.sent.messages", "{message}", "Calls that the broker has taken."
)
_consumed = _meter.create_counter(
    "messaging.client.consumed.messages", "{message}", "Runs that have begun."
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
    if isinstance(event, Dispatched):
        _sent.add(1, _attributes(event, "dispatch", "create"))
    elif type(event) is RunStarted:
        attributes = _attributes(event, "run", "process")
        _consumed.add(1, attributes)
        if event.attempt == 1 and event.deliveries == 1:
            _wait.record(max(0.0, event.at - event.enqueued_at), attributes)
    elif isinstance(event, RunStarted):
        seconds = event.at - getattr(event, "started_at", event.at)
        if seconds > 0:  # otherwise it could not run
            _duration.record(seconds, _ending(event))


def _attributes(event: Called, name: str, kind: str) -> Attributes:
    return of_operation(name, kind, event.task, event.queue)


def _ending(event: RunStarted) -> Attributes:
    attributes = _attributes(event, "run", "process")
    if isinstance(event, RunFailed):
        attributes[OUTCOME] = "retried" if event.will_retry else "dead"
        attributes[ERROR_TYPE] = "_OTHER" if event.error is None else error_type(event.error)
    else:
        attributes[OUTCOME] = _OUTCOMES[type(event)]
    return attributes

"""Events: one stream of small values; each kind is emitted in one place."""

from .kinds import (
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
    WorkerStarted,
    WorkerStopped,
)
from .listening import dropped_events, flush, is_listening, listen, tell, unlisten, wanted

__all__ = [
    "Called",
    "Dispatched",
    "Event",
    "RunCancelled",
    "RunFailed",
    "RunPostponed",
    "RunReleased",
    "RunSkipped",
    "RunStarted",
    "RunSucceeded",
    "WorkerStarted",
    "WorkerStopped",
    "dropped_events",
    "flush",
    "is_listening",
    "listen",
    "tell",
    "unlisten",
    "wanted",
]

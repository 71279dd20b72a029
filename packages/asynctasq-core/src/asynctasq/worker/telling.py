"""Emits events about one worker's runs: each run begins once and ends once."""

from __future__ import annotations

from time import perf_counter, time
from typing import Any

from ..brokers import Delivery
from ..config.settings import Config
from ..events import (
    RunCancelled,
    RunFailed,
    RunPostponed,
    RunReleased,
    RunSkipped,
    RunStarted,
    RunSucceeded,
    tell,
    wanted,
)
from ..events.kinds import made
from .jobs import Job, task_name
from .outcomes import Verdict

_Ended = RunSucceeded | RunSkipped | RunFailed | RunPostponed | RunReleased | RunCancelled

_KINDS: dict[str, type[_Ended]] = {
    "succeeded": RunSucceeded,
    "skipped": RunSkipped,
    "retried": RunFailed,
    "dead": RunFailed,
    "postponed": RunPostponed,
    "released": RunReleased,
    "cancelled": RunCancelled,
}


def tell_started(job: Job) -> None:
    """Emit the event that a run begins, if anyone listens."""
    if RunStarted in wanted:
        tell(made(RunStarted, _call(job, time())))


def tell_ended(verdict: Verdict, job: Job | None, config: Config) -> None:
    """Emit the event for how a run ended, if anyone listens.

    Args:
        job: The job that ran; `None` for a message that cannot be run.
    """
    kind = _KINDS[verdict.word]
    if kind not in wanted:
        return
    now = time()
    if job is None:
        fields = _unreadable(verdict.outcome.delivery, config, now)
    else:
        fields = _call(job, now)
        fields["started_at"] = now - (perf_counter() - job.slot_since) if job.slot_since else now
    if kind in (RunSkipped, RunFailed, RunPostponed):
        fields["error"] = verdict.exception
    if kind is RunFailed:
        fields["will_retry"] = verdict.word == "retried"
    if kind is RunFailed or kind is RunPostponed:
        fields |= {"reason": verdict.error, "delay_seconds": verdict.outcome.delay}
    tell(made(kind, fields))


def _call(job: Job, now: float) -> dict[str, Any]:
    message, delivery = job.message, job.delivery
    return {
        "at": now,
        "task": message.task,
        "id": message.id,
        "queue": delivery.queue,
        "headers": message.headers,
        "attempt": message.attempt,
        "deliveries": delivery.deliveries,
        "enqueued_at": message.enqueued_at,
        "due": message.due_ms / 1000 if message.due_ms else None,
    }


def _unreadable(delivery: Delivery, config: Config, now: float) -> dict[str, Any]:
    return {
        "at": now,
        "started_at": now,
        "task": task_name(delivery, config),
        "id": delivery.id,
        "queue": delivery.queue,
        "headers": {},
        "deliveries": delivery.deliveries,
    }

"""Where a dispatched call is, in one word."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class TaskStatus(StrEnum):
    """Where a dispatched call is.

    `UNCOMMITTED`: it waits for a transaction's commit, or is on its way to the broker after it,
    perhaps in the outbox. `DROPPED`: it was not sent, because the transaction was rolled back or
    the broker could not be reached after the commit. `DONE`, `CANCELLED`, and `DEAD` after a purge:
    there is a record, which a task keeps for its `result_ttl` or `status_ttl` in seconds, or the
    handle itself ended the call. `ENDED`: this handle sent it and its queue no longer holds it, but
    there is no record of how it went. `UNKNOWN`: nothing is known about it. It was never
    dispatched, rolled back, not committed yet elsewhere, expired or deleted; or its commit failed
    without an answer, and it is neither in the outbox nor in its queue.
    """

    UNCOMMITTED = "uncommitted"
    DROPPED = "dropped"
    WAITING = "waiting"
    DELAYED = "delayed"
    RUNNING = "running"
    DONE = "done"
    DEAD = "dead"
    CANCELLED = "cancelled"
    ENDED = "ended"
    UNKNOWN = "unknown"


def recorded(content: Mapping[str, Any]) -> TaskStatus:
    """The status of a call according to its stored result."""
    if content.get("cancelled"):
        return TaskStatus.CANCELLED
    is_dead = "error" in content or content.get("ended") == "dead"
    return TaskStatus.DEAD if is_dead else TaskStatus.DONE

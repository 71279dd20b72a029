"""Where a dispatched call is, in one word."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class TaskStatus(StrEnum):
    """Where a dispatched call is.

    `UNCOMMITTED` waits for a transaction's commit, or is on its way to the broker after it, perhaps
    in the outbox. `DROPPED` was not sent: the transaction was rolled back, or the broker could not
    be reached after its commit. `DONE`, `CANCELLED`, and `DEAD` after a purge, stand for a record,
    which a task keeps for its `result_ttl` or `status_ttl`, or for what the handle itself has done.
    `ENDED` is a call that this handle sent and that its queue no longer holds, without a record of
    how it went. Of a call that is `UNKNOWN` nothing is known: never dispatched, rolled back, not
    committed yet elsewhere, expired or deleted; or its commit failed without an answer, and it is
    neither in the outbox nor in its queue.
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
    """What a stored result says of its call."""
    if content.get("cancelled"):
        return TaskStatus.CANCELLED
    is_dead = "error" in content or content.get("ended") == "dead"
    return TaskStatus.DEAD if is_dead else TaskStatus.DONE

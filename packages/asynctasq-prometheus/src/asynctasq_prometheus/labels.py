"""The labels of series, of which there are never more than so many."""

from __future__ import annotations

from asynctasq.events import Called

#: Distinct values of a label; what comes later is told together.
MOST = 500

OTHER = "(other)"

_seen: dict[str, set[str]] = {"task": set(), "queue": set()}


def labels_of(event: Called) -> tuple[str, str]:
    """The task's and the queue's name."""
    return bounded("task", event.task or "(unreadable)"), bounded("queue", event.queue)


def bounded(label: str, value: str) -> str:
    """The value, if it is one of the first that this label had."""
    seen = _seen[label]
    if value in seen:
        return value
    if len(seen) >= MOST:
        return OTHER
    seen.add(value)
    return value

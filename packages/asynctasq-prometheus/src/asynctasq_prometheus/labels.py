"""The labels of series, which take only a bounded number of values."""

from __future__ import annotations

from asynctasq.events import Called

#: Maximum number of distinct values of a label; later ones share one value.
MOST = 500

OTHER = "(other)"

_seen: dict[str, set[str]] = {"task": set(), "queue": set()}


def labels_of(event: Called) -> tuple[str, str]:
    """The names of the task and the queue."""
    return bounded("task", event.task or "(unreadable)"), bounded("queue", event.queue)


def bounded(label: str, value: str) -> str:
    """The value, if it is among the first that this label had; otherwise the shared one."""
    seen = _seen[label]
    if value in seen:
        return value
    if len(seen) >= MOST:
        return OTHER
    seen.add(value)
    return value

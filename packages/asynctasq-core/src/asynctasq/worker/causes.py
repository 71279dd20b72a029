"""Analyses an error that escaped a run: its parts, and whether it is the run's own."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import RemoteTraceback


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors in a group, such as a `TaskGroup` raises, or the error itself."""
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from leaves(part)
    else:
        yield error


def is_another_tasks(error: BaseException) -> bool:
    """Whether it is another task's error, raised here by `TaskHandle.result`.

    Such an error says nothing about this task's message.
    """
    return isinstance(error.__cause__, RemoteTraceback)

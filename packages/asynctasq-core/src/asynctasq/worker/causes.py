"""What an error says that escaped a run: its parts, and whether it is the run's own."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import RemoteTraceback


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors of a group, as a `TaskGroup` raises it; or the error itself."""
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from leaves(part)
    else:
        yield error


def is_another_tasks(error: BaseException) -> bool:
    """Whether `TaskHandle.result` raised it in this task: it says nothing of this one's message."""
    return isinstance(error.__cause__, RemoteTraceback)

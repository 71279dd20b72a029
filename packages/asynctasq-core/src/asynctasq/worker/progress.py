"""Reports how far the running call has come."""

from __future__ import annotations

from time import monotonic

from ..app import current
from ..brokers import Remembering
from ..errors import ConfigurationError
from ..sending.portal import portal
from ..sending.progress import MOST_CHARACTERS, Progress, keep_progress
from ..tasks.current import current_message, current_run
from .jobs import Job, Key

#: Minimum time between two updates from one run to the broker.
_SECONDS = 0.5


async def progress(done: float, total: float | None = None, note: str = "") -> None:
    """Report how far the running task has come, for `TaskHandle.progress` and `watch`.

    Call it as often as you like: at most two updates per second go to the broker. The first one,
    and the one that says that all is done, are sent at once. Does nothing in `Call.execute`.

    Args:
        done: How much is done.
        total: How much there is to do, if known.
        note: What the task is doing now; up to 500 characters.

    Raises:
        LookupError: No task is running here.
        TypeError: `done` or `total` is no number.
        ConfigurationError: The broker cannot store progress.
        BrokerUnavailable: It may not have been stored.
    """
    if (told := _to_tell(done, total, note)) is not None:
        await _tell(*told)


def progress_sync(done: float, total: float | None = None, note: str = "") -> None:
    """Like `progress`, for a `def` task."""
    if (told := _to_tell(done, total, note)) is not None:
        portal.run(_tell(*told))


def _to_tell(done: float, total: float | None, note: str) -> tuple[Key, Progress] | None:
    """The progress to report now, with its call; `None` if the last report is too recent."""
    current_message()  # raises where no task is running
    if not isinstance(done, int | float) or not isinstance(total, int | float | None):
        raise TypeError("progress() takes numbers, and then a note")
    run = current_run.get()
    assert isinstance(run, Job)
    now, is_whole = monotonic(), total is not None and done >= total
    if not run.delivery.queue or (now - run.progress_at < _SECONDS and not is_whole):
        return None
    run.progress_at, run.progress = now, Progress(done, total, note[:MOST_CHARACTERS])
    return run.key, run.progress


async def _tell(key: Key, told: Progress) -> None:
    broker = current().open_broker()
    if not isinstance(broker, Remembering):
        raise ConfigurationError(f"{broker.describe()} cannot keep the progress of calls")
    await keep_progress(broker, key, told.encode())

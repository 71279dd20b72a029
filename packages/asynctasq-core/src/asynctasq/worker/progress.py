"""Telling how far the call that runs here has come."""

from __future__ import annotations

from time import monotonic

from ..app import current
from ..brokers import Remembering
from ..errors import ConfigurationError
from ..sending.portal import portal
from ..sending.progress import KEPT_SECONDS, MOST_CHARACTERS, PROGRESS, Progress
from ..tasks.current import current_message, current_run
from .jobs import Job, Key

#: Between two updates of one run that go to the broker.
_SECONDS = 0.5


async def progress(done: float, total: float | None = None, note: str = "") -> None:
    """Tell how far the task that runs here has come, for `TaskHandle.progress` and `watch`.

    May be called as often as one likes: at most two updates a second go to the broker. The first
    goes at once, and the one that says that all is done. Does nothing in `Call.execute`.

    Args:
        done: How much is done.
        total: Of how much, if that is known.
        note: What it does now; up to 500 characters.

    Raises:
        LookupError: No task is running here.
        ConfigurationError: The broker cannot keep it.
        BrokerUnavailable: It may not have been kept.
    """
    if (told := _to_tell(done, total, note)) is not None:
        await _tell(*told)


def progress_sync(done: float, total: float | None = None, note: str = "") -> None:
    """`progress` for a `def` task."""
    if (told := _to_tell(done, total, note)) is not None:
        portal.run(_tell(*told))


def _to_tell(done: float, total: float | None, note: str) -> tuple[Key, Progress] | None:
    """Whose progress is to be told now; nobody's if the last was told a moment ago."""
    current_message()  # raises where no task is running
    run = current_run.get()
    assert isinstance(run, Job)
    now, is_whole = monotonic(), total is not None and done >= total
    if not run.delivery.queue or (now - run.progress_at < _SECONDS and not is_whole):
        return None
    run.progress_at = now
    return run.key, Progress(done, total, note[:MOST_CHARACTERS])


async def _tell(key: Key, told: Progress) -> None:
    broker = current().open_broker()
    if not isinstance(broker, Remembering):
        raise ConfigurationError(f"{broker.describe()} cannot keep the progress of calls")
    queue, message_id = key
    value = told.encode()
    await broker.set_value(queue, PROGRESS, message_id, value, ttl_seconds=KEPT_SECONDS)

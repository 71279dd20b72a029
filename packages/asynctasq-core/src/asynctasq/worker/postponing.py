"""Decides when a run is postponed without using up an attempt, for how long, and when to stop.

Owns the counters behind that. They travel in the message, so that whichever worker gets it next
goes on counting.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from time import time

from ..adapters.plugins import Adapters
from ..config.settings import Config
from ..durations import is_delay
from ..errors import NotYetKnown, ReferenceUnavailable, Snooze, Stopped
from ..wire.message import Message, moment_ms
from .causes import is_another_tasks, leaves
from .jobs import Job
from .retry import postponement_delay

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Later:
    """The run is postponed.

    Attributes:
        message: The message to put back.
        delay: Seconds from now.
        is_expected: Whether nobody needs to look: the task asked for it, or a warning was logged.
    """

    message: Message
    delay: float
    is_expected: bool = False


@dataclass(frozen=True, slots=True)
class Never:
    """The run has been postponed as often, or for as long, as it may be.

    Attributes:
        reason: For the dead letter.
    """

    reason: str


def put_off(
    config: Config, adapters: Adapters, job: Job, error: BaseException
) -> Later | Never | None:
    """Decide whether an error that escaped a run postpones it; `None` if it does not."""
    if (seconds := _snooze_seconds(error)) is not None:
        return _snoozed(job, seconds)
    if is_another_tasks(error):
        return None
    if all(isinstance(e, Stopped) for e in leaves(error)):
        return Later(replace(job.message), 0.0, is_expected=True)
    if isinstance(error, ReferenceUnavailable):
        again = replace(job.message, postponed=job.message.postponed + 1)
        return Later(again, postponement_delay(again.postponed))
    if isinstance(error, NotYetKnown) and not job.has_begun:
        return unknown(config, job.message)
    return _in_outage(config, job.message) if is_outage(adapters, job, error) else None


def is_outage(adapters: Adapters, job: Job, error: BaseException) -> bool:
    """Whether an error (in a group: every one) only says that a database or the network is away."""
    named = job.options.retry_on_outage
    return all(
        isinstance(e, Exception)
        and not is_another_tasks(e)
        and (isinstance(e, named) or _is_of_a_database(adapters, e))
        for e in leaves(error)
    )


def _is_of_a_database(adapters: Adapters, error: Exception) -> bool:
    for adapter in adapters.with_hook("is_outage"):
        try:
            if adapter.is_outage(error):  # type: ignore[misc]
                return True
        except Exception:
            logger.exception("is_outage of an adapter failed", extra={"adapter": adapter.name})
    return False


def _in_outage(config: Config, message: Message) -> Later | None:
    """How long to wait during an outage; `None` once it has lasted too long."""
    now = int(time() * 1000)
    since = message.outage_since_ms or now
    left = config.outage_for - (now - since) / 1000
    if left <= 0:
        return None
    again = replace(message, postponed=message.postponed + 1, outage_since_ms=since)
    return Later(again, min(postponement_delay(again.postponed), left))


def unknown(config: Config, message: Message) -> Later | Never:
    """Decide on a message that names something only newer code may know."""
    now = int(time() * 1000)
    since = message.unknown_since_ms or now
    left = config.unknown_for - (now - since) / 1000
    if left <= 0:
        return Never("the message cannot be run")
    again = replace(message, postponed=message.postponed + 1, unknown_since_ms=since)
    delay = min(postponement_delay(again.postponed), left)
    return Later(again, delay, is_expected=message.unknown_since_ms > 0)


def rested(message: Message) -> Message:
    """The message after a run that nothing postponed: its counters start again."""
    return replace(message, postponed=0, unknown_since_ms=0, outage_since_ms=0)


def _snooze_seconds(error: BaseException) -> float | None:
    """Seconds the task asked to be postponed: the longest in a group; `None` if it did not ask."""
    snoozes = [*leaves(error)]
    if not all(isinstance(e, Snooze) and not is_another_tasks(e) for e in snoozes):
        return None
    # Check the value: a task or a subclass may have set the attribute to anything.
    return max(filter(is_delay, (getattr(e, "seconds", None) for e in snoozes)), default=None)


def _snoozed(job: Job, seconds: float) -> Later | Never:
    snoozes, most = job.message.snoozes + 1, job.options.max_snoozes
    if most is not None and snoozes > most:
        return Never(f"put off {most} times, as often as max_snoozes allows")
    due_ms = moment_ms(time() + seconds)
    again = replace(rested(job.message), snoozes=snoozes, due_ms=due_ms)
    return Later(again, seconds, is_expected=True)

"""When a run is put off without using up an attempt: for how long, and when no longer.

Owns what a message remembers of that. It travels with the message, so that whichever worker has it
next goes on counting.
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
    """The run is put off.

    Attributes:
        message: As it comes back.
        delay: Seconds from now.
        is_expected: Whether nobody need look: the task meant it, or it has been warned of.
    """

    message: Message
    delay: float
    is_expected: bool = False


@dataclass(frozen=True, slots=True)
class Never:
    """It has been put off as often, or as long, as it may be.

    Attributes:
        reason: For the dead letter.
    """

    reason: str


def put_off(
    config: Config, adapters: Adapters, job: Job, error: BaseException
) -> Later | Never | None:
    """Whether an error that escaped a run puts it off; `None` if it says nothing of that."""
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
    """Whether an error says only that a database or the network is away; of a group, all of it."""
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
    """How long to wait for what is away; `None` once it has been away for too long."""
    now = int(time() * 1000)
    since = message.outage_since_ms or now
    left = config.outage_for - (now - since) / 1000
    if left <= 0:
        return None
    again = replace(message, postponed=message.postponed + 1, outage_since_ms=since)
    return Later(again, min(postponement_delay(again.postponed), left))


def unknown(config: Config, message: Message) -> Later | Never:
    """What becomes of a message that names what newer code may know."""
    now = int(time() * 1000)
    since = message.unknown_since_ms or now
    left = config.unknown_for - (now - since) / 1000
    if left <= 0:
        return Never("the message cannot be run")
    again = replace(message, postponed=message.postponed + 1, unknown_since_ms=since)
    delay = min(postponement_delay(again.postponed), left)
    return Later(again, delay, is_expected=message.unknown_since_ms > 0)


def rested(message: Message) -> Message:
    """The message after a run that nothing has put off: what did before is over."""
    return replace(message, postponed=0, unknown_since_ms=0, outage_since_ms=0)


def _snooze_seconds(error: BaseException) -> float | None:
    """How long the task wants to be put off: the longest of a group of `Snooze`; else `None`."""
    snoozes = [*leaves(error)]
    if not all(isinstance(e, Snooze) and not is_another_tasks(e) for e in snoozes):
        return None
    # An attribute that a task or a subclass may have set to anything.
    return max(filter(is_delay, (getattr(e, "seconds", None) for e in snoozes)), default=None)


def _snoozed(job: Job, seconds: float) -> Later | Never:
    snoozes, most = job.message.snoozes + 1, job.options.max_snoozes
    if most is not None and snoozes > most:
        return Never(f"put off {most} times, as often as max_snoozes allows")
    due_ms = moment_ms(time() + seconds)
    again = replace(rested(job.message), snoozes=snoozes, due_ms=due_ms)
    return Later(again, seconds, is_expected=True)

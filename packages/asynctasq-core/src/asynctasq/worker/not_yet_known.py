"""Shows people the names that workers do not know yet, while the messages wait.

Each worker notes, with the queue, what it has put off for that reason. A note lasts a little longer
than the time until the message is tried again, so it expires once the name is known.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from time import time

from ..brokers import Broker, Delivery, Remembering
from ..config.settings import Config
from ..errors import BrokerError
from .jobs import task_name
from .retry import LONGEST_POSTPONEMENT_SECONDS

logger = logging.getLogger(__name__)

#: The kind of the values.
_KIND = "not-yet-known"
_NOTE_SECONDS = 6 * LONGEST_POSTPONEMENT_SECONDS

#: Maximum number of names noted at once, and maximum length of names and errors, which are
#: untrusted.
_MOST, _LONGEST_NAME, _LONGEST_ERROR = 100, 200, 500


@dataclass(frozen=True, slots=True)
class NotYetKnownTask:
    """Calls of a task that wait for a worker which knows what they name.

    Attributes:
        error: What a worker did not know.
        seen_at: When a call was last put off; Unix time in seconds.
    """

    queue: str
    task: str
    error: str
    seen_at: float


class NotYetKnownTasks:
    """What one worker has put off but not yet reported to the broker."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._noted: dict[tuple[str, str], str] = {}
        self._wake = asyncio.Event()

    def note(self, delivery: Delivery, error: BaseException) -> None:
        """Note that a delivery was put off because of this error."""
        key = (delivery.queue, task_name(delivery, self._config)[:_LONGEST_NAME])
        if key in self._noted or len(self._noted) < _MOST:
            self._noted[key] = f"{type(error).__name__}: {error}"[:_LONGEST_ERROR]
            self._wake.set()

    async def run(self, broker: Broker) -> None:
        """Report notes to the broker until cancelled."""
        if not isinstance(broker, Remembering):
            return
        while True:
            await self._wake.wait()
            self._wake.clear()
            noted, self._noted = self._noted, {}
            for (queue, task), error in noted.items():
                value = json.dumps({"error": error, "seen_at": time()}).encode()
                try:
                    await broker.set_value(queue, _KIND, task, value, ttl_seconds=_NOTE_SECONDS)
                except BrokerError as e:
                    logger.debug("could not report calls that nobody here knows: %s", e)


async def not_yet_known(broker: Broker, queues: Sequence[str]) -> list[NotYetKnownTask]:
    """The calls in these queues that wait for a worker that knows them, by queue and task."""
    if not isinstance(broker, Remembering):
        return []
    found = []
    for queue in queues:
        for task, value in sorted((await broker.values(queue, _KIND)).items()):
            error, seen_at = _read(value)
            found.append(NotYetKnownTask(queue, task, error, seen_at))
    return found


def _read(value: bytes) -> tuple[str, float]:
    """The error and the time in a note, which is untrusted."""
    try:
        kept = json.loads(value)
        return str(kept["error"])[:_LONGEST_ERROR], float(kept["seen_at"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return "", 0.0

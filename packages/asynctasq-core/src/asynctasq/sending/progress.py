"""How far a running call has come, as it reports and others read."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import msgpack

from ..brokers import Remembering

#: The kinds of the values.
PROGRESS, CHECKPOINT = "progress", "checkpoint"

#: How long the last progress of a call is kept.
KEPT_SECONDS = 600.0

#: The longest note, in characters.
MOST_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a call has come.

    Attributes:
        done: How much is done.
        total: How much there is to do; `None` if unknown.
        note: What the call is doing now.
    """

    done: float
    total: float | None = None
    note: str = ""

    @property
    def fraction(self) -> float | None:
        """The fraction that is done, from 0 to 1; `None` if unknown."""
        return None if not self.total else min(max(self.done / self.total, 0.0), 1.0)

    def encode(self, *, is_last: bool = False) -> bytes:
        """The bytes for the broker.

        Args:
            is_last: Whether the run has ended, which makes other bytes and so wakes who watches.
        """
        parts = (*astuple(self), True) if is_last else astuple(self)
        packed: bytes = msgpack.packb(parts, unicode_errors="backslashreplace")
        return packed


def decode(value: bytes) -> Progress | None:
    """The reported progress; `None` if the broker holds something else there."""
    try:
        done, total, note, *_ = msgpack.unpackb(value)
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
    is_number = isinstance(done, int | float) and isinstance(total, int | float | None)
    return Progress(done, total, note) if is_number and isinstance(note, str) else None


async def keep_progress(broker: Remembering, key: tuple[str, str], value: bytes) -> None:
    """Keep what a call reports, and wake those who watch it; `key` is its queue and id."""
    queue, message_id = key
    await broker.set_value(queue, PROGRESS, message_id, value, ttl_seconds=KEPT_SECONDS, wakes=True)

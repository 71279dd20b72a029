"""How far a running call has come, as it reports and others read."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import msgpack

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

    def encode(self) -> bytes:
        """The bytes for the broker."""
        packed: bytes = msgpack.packb(astuple(self), unicode_errors="backslashreplace")
        return packed


def decode(value: bytes) -> Progress | None:
    """The reported progress; `None` if the broker holds something else there."""
    try:
        done, total, note = msgpack.unpackb(value)
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
    is_number = isinstance(done, int | float) and isinstance(total, int | float | None)
    return Progress(done, total, note) if is_number and isinstance(note, str) else None

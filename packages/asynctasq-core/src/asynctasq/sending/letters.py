"""What a worker wrote of a call that it gave up, as the broker keeps it with the dead letter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import msgpack

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fate:
    """Why a call was given up; empty where somebody else has written it."""

    task: str
    reason: str
    error: str
    traceback: str
    attempts: int
    deliveries: int


def read(packed: bytes) -> Fate:
    """What is kept with a dead letter."""
    info = _info(packed)
    return Fate(
        task=_of(str, info.get("task"), ""),
        reason=_of(str, info.get("reason"), ""),
        error=_of(str, info.get("error"), ""),
        traceback=_of(str, info.get("traceback"), ""),
        attempts=_of(int, info.get("attempts"), 0),
        deliveries=_of(int, info.get("deliveries"), 0),
    )


def _of(cls: type[T], value: object, default: T) -> T:
    """The value if it is what a worker writes; others may have written to the store."""
    return value if isinstance(value, cls) else default


def _info(packed: bytes) -> dict[str, Any]:
    try:
        # Flat, so that no header of damaged bytes claims memory for nothing.
        info = msgpack.unpackb(packed, max_array_len=0)
    except (ValueError, TypeError, msgpack.UnpackException):
        return {}
    return info if isinstance(info, dict) else {}

"""Reads what a worker stored with a dead letter about the call that it gave up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import msgpack

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fate:
    """Why a call was given up; fields that no worker has written are empty."""

    task: str
    reason: str
    error: str
    traceback: str
    attempts: int
    deliveries: int


def read(packed: bytes) -> Fate:
    """Decode what is stored with a dead letter."""
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
    """The value if it has the type that a worker writes; the store is untrusted."""
    return value if isinstance(value, cls) else default


def _info(packed: bytes) -> dict[str, Any]:
    try:
        # It is flat, so forbid arrays: damaged bytes could claim memory through a false header.
        info = msgpack.unpackb(packed, max_array_len=0)
    except (ValueError, TypeError, msgpack.UnpackException):
        return {}
    return info if isinstance(info, dict) else {}

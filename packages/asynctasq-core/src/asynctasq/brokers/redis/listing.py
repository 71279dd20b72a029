"""Pages of a queue's messages: where each begins, and how to read the scripts' replies."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator, Sequence
from typing import cast

from .. import HeldMessage, HeldPage, HeldState

#: Maximum messages per call; a page may be shorter.
AT_ONCE = 500

#: The parts of `held.lua` that each state has.
_PARTS: dict[HeldState, bytes] = {"waiting": b"raodnb", "running": b"st", "delayed": b"l"}

#: Scores of parked messages start here, as in `pausing.lua`.
_PARKED_MS = 2.0**52

_ENTRY = re.compile(rb"\d{1,20}-\d{1,20}")
_DUE = re.compile(rb"-?[\d.]{1,20}(e[+-]\d+)? .*", re.DOTALL)
_LAST = {
    **dict.fromkeys(b"rastn", _ENTRY),
    **dict.fromkeys(b"dl", _DUE),
    ord("o"): re.compile(rb".{37}.*", re.DOTALL),
    ord("b"): re.compile(rb"B[^\0]*\0[^\0]*\0.{37}.*", re.DOTALL),
}


def begin(state: HeldState, after: str | None) -> tuple[bytes, bytes]:
    """The parts to look at, and the last message already shown of the first part.

    Raises:
        ValueError: `after` did not come from `page`.
    """
    parts = _PARTS[state]
    if after is None:
        return parts, b""
    part = after[:1].encode()
    last = urlsafe_b64decode(after[1:].encode())
    if not part or part not in parts or (last and not _LAST[part[0]].fullmatch(last)):
        raise ValueError(f"{after[:50]!r} is not a place in a queue")
    return parts[parts.index(part) :], last


def page(queue: str, reply: tuple[bytes, bytes, list[bytes]]) -> HeldPage:
    """The page in a reply of `held.lua`."""
    part, last, texts = reply
    after = part.decode() + urlsafe_b64encode(last).decode() if part else None
    return HeldPage(list(messages(queue, texts)), after)


def messages(queue: str, texts: Sequence[bytes]) -> Iterator[HeldMessage]:
    """The messages in a reply, in the form that `showing.lua` describes."""
    columns = (texts[i::6] for i in range(6))
    for message_id, body, state, deliveries, due, consumer in zip(*columns, strict=True):
        yield HeldMessage(
            queue,
            message_id.decode("utf-8", "replace"),
            body,
            cast(HeldState, state.decode()),
            int(deliveries),
            due=float(due) / 1000 if due and float(due) < _PARKED_MS else None,
            worker=consumer.decode("utf-8", "replace").rpartition("~")[0],
        )

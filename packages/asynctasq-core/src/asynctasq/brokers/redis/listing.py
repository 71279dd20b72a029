"""Pages of the messages of a queue: where they begin, and what the scripts say of them."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator, Sequence
from typing import cast

from .. import HeldMessage, HeldPage, HeldState

#: Most messages of one call; a page may be shorter.
AT_ONCE = 500

#: The parts of `held.lua` that each state has.
_PARTS: dict[HeldState, bytes] = {"waiting": b"raodnb", "running": b"st", "delayed": b"l"}

#: Scores of what is parked, as of `pausing.lua`.
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
    """The parts to look at, and what was the last of the first of them.

    Raises:
        ValueError: `after` is nothing that `page` gives.
    """
    parts = _PARTS[state]
    if after is None:
        return parts, b""
    part = after[:1].encode()
    last = urlsafe_b64decode(after[1:].encode())
    if not part or part not in parts or (last and not _LAST[part[0]].fullmatch(last)):
        raise ValueError(f"{after[:50]!r} is no place in a queue")
    return parts[parts.index(part) :], last


def page(queue: str, reply: tuple[bytes, bytes, list[bytes]]) -> HeldPage:
    """What `held.lua` returned."""
    part, last, texts = reply
    after = part.decode() + urlsafe_b64encode(last).decode() if part else None
    return HeldPage(list(messages(queue, texts)), after)


def messages(queue: str, texts: Sequence[bytes]) -> Iterator[HeldMessage]:
    """Messages as in `showing.lua`."""
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

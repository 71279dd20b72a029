"""Lists the messages in one of this process's queues, page by page."""

from __future__ import annotations

import json
from collections.abc import Collection
from heapq import nsmallest
from operator import itemgetter

from .. import HeldMessage, HeldPage, HeldState
from .messages import StoredMessage

_Standing = tuple[float, ...]


def page_of(
    messages: Collection[StoredMessage], state: HeldState, limit: int, after: str | None
) -> HeldPage:
    """A page of the messages in a state; looks at every message."""
    since = () if after is None else _parsed(after)
    standing = ((_standing(m), m) for m in messages if m.state == state)
    page = nsmallest(limit, (one for one in standing if one[0] > since), key=itemgetter(0))
    is_full = len(page) == limit
    return HeldPage(
        [shown(message) for _, message in page], json.dumps(page[-1][0]) if is_full else None
    )


def shown(message: StoredMessage) -> HeldMessage:
    """The message as a `HeldMessage`; it must not be dead."""
    assert message.state != "dead"
    return HeldMessage(
        message.queue,
        message.id,
        message.body,
        message.state,
        message.deliveries,
        due=message.at if message.state == "delayed" and not message.parked else None,
        worker=message.owner if message.state == "running" else "",
    )


def _standing(message: StoredMessage) -> _Standing:
    """The message's position in its state; never the same for two messages."""
    if message.state == "waiting":
        return message.order
    return (message.at, message.lease) if message.state == "delayed" else (message.lease,)


def _parsed(after: str) -> _Standing:
    try:
        standing = json.loads(after)
    except RecursionError as e:
        raise ValueError(f"{after[:50]!r} is not a place in a queue") from e
    if not isinstance(standing, list) or not all(type(n) in (int, float) for n in standing):
        raise ValueError(f"{after[:50]!r} is not a place in a queue")
    return tuple(standing)

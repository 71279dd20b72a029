"""The calls that follow a call and the batch it belongs to, as they travel with its message.

Owns the ids of follow-up calls: each derives from the id of the call before it, so that making one
again gives the same id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from hashlib import blake2b
from typing import Any

import msgpack

from ..errors import InvalidMessage

_PURPOSE = b"asynctasq-flow"

_LIMITS = {"max_array_len": 1000, "max_map_len": 1000, "max_ext_len": 0}

#: Maximum number of links in one chain.
MOST_LINKS = 500


@dataclass(frozen=True, slots=True)
class ChainLink:
    """A call that follows another.

    Attributes:
        payload: The encoded arguments; with `takes_result` the first is a placeholder.
        takes_result: Whether the first argument is the result of the call before.
        options, headers: As in `Message`.
        policy: What the broker is asked for, packed, as in `Outgoing`.
    """

    queue: str
    task: str
    payload: bytes = field(repr=False)
    takes_result: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0
    policy: Sequence[Any] | None = None

    def payload_with(self, result: bytes) -> bytes:
        """The arguments, with the encoded result in place of the placeholder."""
        if not self.takes_result:
            return self.payload
        head = {0xDC: 4, 0xDD: 6}.get(self.payload[1], 2)  # of a list of two, and of the first
        return self.payload[:head] + result + self.payload[head + 1 :]


@dataclass(frozen=True, slots=True)
class BatchPlace:
    """A call's place in a batch.

    Attributes:
        queue, id: The batch's queue and id.
        index: The call's index in the batch.
        is_collected: Whether the batch passes on what the call returns.
    """

    queue: str
    id: str
    index: int
    is_collected: bool = False


@dataclass(frozen=True, slots=True)
class Flow:
    """The calls that follow a call, and the batch it belongs to.

    Attributes:
        then: The calls that follow, in order.
        parent: Queue and id of the call, or of the batch, that this one followed.
        parent_task: The name of that call's task.
        place: The place in a batch, which counts this call and all of `then` as one.
    """

    then: tuple[ChainLink, ...] = ()
    parent: tuple[str, str] | None = None
    place: BatchPlace | None = None
    parent_task: str = ""

    @property
    def wants_result(self) -> bool:
        """Whether the call's result is passed on."""
        if self.then:
            return self.then[0].takes_result
        return self.place is not None and self.place.is_collected

    def encode(self) -> bytes:
        """The bytes for a message."""
        links = [
            [
                link.queue,
                link.task,
                link.payload,
                link.takes_result,
                link.options,
                link.headers,
                link.priority,
                link.policy,
            ]
            for link in self.then
        ]
        place = self.place and astuple(self.place)
        packed: bytes = msgpack.packb([links, self.parent, place, self.parent_task])
        return packed


NO_FLOW = Flow()


def following_id(message_id: str) -> str:
    """The id of the call that follows this one; it starts with the same time."""
    digest = blake2b(message_id.encode(), digest_size=10, person=_PURPOSE)
    return message_id[:12] + digest.hexdigest()


def decode(packed: bytes) -> Flow:
    """The flow in the last part of a message.

    Raises:
        InvalidMessage: It is damaged.
    """
    if not packed:
        return NO_FLOW
    try:
        links, parent, place, parent_task = msgpack.unpackb(packed, **_LIMITS)
        then = tuple(_link(*parts) for parts in links)
        found = Flow(then, parent and _texts(*parent), place and BatchPlace(*place), parent_task)
    except (ValueError, TypeError, AttributeError, msgpack.UnpackException) as e:
        raise InvalidMessage(f"a message whose flow is damaged: {type(e).__name__}") from e
    if type(parent_task) is not str:
        raise InvalidMessage("a message whose parent's task is no text")
    if found.place is not None:
        kinds = [*map(type, astuple(found.place))]
        if kinds != [str, str, int, bool] or not 0 <= found.place.index < 2**31:
            raise InvalidMessage("a message whose place in a batch is none")
    return found


def _texts(queue: str, message_id: str) -> tuple[str, str]:
    if type(queue) is not str or type(message_id) is not str:
        raise TypeError("no texts")
    return queue, message_id


def _link(
    queue: str,
    task: str,
    payload: bytes,
    takes_result: bool,
    options: dict[str, Any],
    headers: dict[str, str],
    priority: int,
    policy: list[Any] | None,
) -> ChainLink:
    kinds = [*map(type, (queue, task, payload, takes_result, options, headers, priority))]
    if kinds != [str, str, bytes, bool, dict, dict, int] or type(policy) not in (list, type(None)):
        raise TypeError("a part of a link is none")
    if not all(type(text) is str for header in headers.items() for text in header):
        raise TypeError("a header is not text")
    if takes_result and len(payload) < 3:
        raise TypeError("no place for the result")
    return ChainLink(queue, task, payload, takes_result, options, headers, priority, policy)

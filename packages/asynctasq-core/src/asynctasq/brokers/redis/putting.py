"""The requests that put messages, and what their replies say."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from .. import Outgoing
from .asks import is_asking, packed
from .keys import Keys
from .pages import pages
from .scripts import PUT, PUT_ASKING
from .server import Request

#: The minimum size that a message which asks for something counts as, since it takes about ten
#: commands.
_ASKING_BYTES = 8192


def puts(keys: Keys, messages: Sequence[Outgoing]) -> list[Request]:
    """The requests that put these messages, in order within each queue."""
    if len(messages) == 1 and not is_asking(messages[0]):
        message = messages[0]
        its = keys.of(message.queue)
        return [(its.stream, PUT(its[:4], message.id, message.body, due_ms(message.due)))]
    by_queue: dict[str, list[Outgoing]] = {}
    for message in messages:
        by_queue.setdefault(message.queue, []).append(message)
    return [request for queue, some in by_queue.items() for request in _puts(keys, queue, some)]


def _puts(keys: Keys, queue: str, messages: Sequence[Outgoing]) -> Iterator[Request]:
    its = keys.of(queue)
    least = _ASKING_BYTES if any(map(is_asking, messages)) else 0
    for page in pages(messages, lambda message: max(least, len(message.body))):
        script = PUT_ASKING if any(map(is_asking, page)) else PUT
        yield its.stream, script(its[:4], *arguments(page))


def arguments(messages: Sequence[Outgoing]) -> list[bytes | str | int]:
    """The messages as the scripts take them; with what they ask for, if any of them asks."""
    is_any_asking = any(map(is_asking, messages))
    values: list[bytes | str | int] = []
    for message in messages:
        values += (message.id, message.body, due_ms(message.due))
        if is_any_asking:
            values.append(packed(message))
    return values


def due_ms(due: float | None) -> bytes | int:
    """When a message is due, in milliseconds; empty if that is now."""
    if due is None or due <= time.time():
        return b""
    return round(due * 1000)


def conflicts(replies: Sequence[Any]) -> dict[str, str] | None:
    """The holders of the keys that kept messages from being added; plain puts reply a number."""
    found: dict[str, str] = {}
    for reply in replies:
        if type(reply) is list:
            texts = [text.decode("utf-8", "replace") for text in reply]
            found.update(zip(texts[::2], texts[1::2], strict=True))
    return found or None

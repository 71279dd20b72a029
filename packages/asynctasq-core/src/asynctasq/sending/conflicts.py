"""Resolves conflicts: messages whose unique key was taken when they reached the broker.

Such a message was not added; the call that holds the key stands for it. With `replaces`, that call
gets the new message's body, due time and policy, if no worker has taken it yet. If it was taken,
done or dead by then, the new message is added by itself: there are never two, and never none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

from ..brokers import Outgoing
from ..wire.message import Message

Put = Callable[[Sequence[Outgoing]], Awaitable[Mapping[str, str] | None]]
"""Puts messages and returns which keys were taken, like `Sending.put`."""


async def resolve(
    put: Put, keys: Sequence[bytes], messages: Sequence[Outgoing], conflicts: Mapping[str, str]
) -> dict[str, str]:
    """Do what the messages ask for if their keys were taken.

    Args:
        keys: The signing keys, for a message whose id changes.
        conflicts: What a put of these messages, perhaps among others, has returned.

    Returns:
        For each message that was not added, by its id, the id of the call that stands for it.

    Raises:
        BrokerUnavailable: Some messages may not have been replaced.
    """
    standing: dict[str, str] = {}
    for message in messages:
        existing = conflicts.get(message.id, message.id)
        if existing != message.id and _replaces(message):
            existing = await _replace(put, keys, message, existing)
        if existing != message.id:
            standing[message.id] = existing
    return standing


def _replaces(message: Outgoing) -> bool:
    policy = message.policy
    return policy is not None and policy.unique is not None and policy.unique.replaces


async def _replace(put: Put, keys: Sequence[bytes], message: Outgoing, existing: str) -> str:
    """Put the message in place of the key's holder; return the id that it ends up with."""
    while True:
        holder = await _holder(put, _under_id(message, existing, keys))
        if holder is None:
            return existing
        if holder == existing:  # taken by a worker, or ended: perhaps the new one can be added now
            holder = await _holder(put, message)
            if holder is None or holder == existing:
                return holder or message.id
        existing = holder


async def _holder(put: Put, message: Outgoing) -> str | None:
    return ((await put((message,))) or {}).get(message.id)


def _under_id(message: Outgoing, message_id: str, keys: Sequence[bytes]) -> Outgoing:
    """The same call under another id, which is part of the signed body."""
    body = replace(Message.decode(message.body, keys), id=message_id).encode(keys)
    return replace(message, id=message_id, body=body)

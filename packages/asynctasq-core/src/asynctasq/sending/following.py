"""Calls that follow others: how they travel, and how each is put only once.

Owns the rule that however many runs try to put the same following call, one succeeds: the call is
put in one step with a note under its id, and the note stays while the call before may come again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from time import time
from typing import Any

from ..adapters.plugins import Adapters
from ..brokers import LimitKey, Outgoing, Policy, RateKey, Remembering, UniqueKey
from ..errors import ConfigurationError, InvalidMessage, PayloadTooLarge
from ..tasks.call import Call
from ..tasks.policies import Unique, names
from ..wire.flow import ChainLink, Flow, following_id
from ..wire.message import Message
from .telling import tell_dispatched

#: The kind of these notes, and how long one is kept once only a run that has lost its lease can
#: still look for it.
_PUT, NOTE_SECONDS = "followed", 600.0


#: An encoded `None`, which the call after a skipped one gets as its result.
NONE = b"\xc0"


def check_policies_of_link(call: Call[Any], policies: Sequence[Any]) -> None:
    """Refuse a policy whose key needs the result of the preceding call.

    Raises:
        ConfigurationError: Names the task.
    """
    first = next(iter(call.task.signature.parameters), "")
    for policy in policies:
        is_by_all = policy.by is None and isinstance(policy, Unique)
        if is_by_all or callable(policy.by) or first in names(policy):
            raise ConfigurationError(
                f"task {call.task.name} cannot follow another with its result as {first!r}: the "
                f"key of its {type(policy).__name__} is made of that, and is needed before"
            )


def next_call(
    flow: Flow,
    message: Message,
    result: bytes,
    adapters: Adapters,
    keys: Sequence[bytes],
    most: int,
) -> Outgoing:
    """The call that follows a message's call.

    Args:
        result: What that call returned, encoded.
        most: `max_payload_bytes`.

    Raises:
        PayloadTooLarge: It is too large once it holds the result.
    """
    link, rest = flow.then[0], flow.then[1:]
    after = Flow(rest, (message.queue, message.id), flow.place, message.task)
    payload = link.payload_with(result)
    return link_message(link, following_id(message.id), payload, after, adapters, keys, most)


def link_message(
    link: ChainLink,
    message_id: str,
    payload: bytes,
    flow: Flow,
    adapters: Adapters,
    keys: Sequence[bytes],
    most: int,
) -> Outgoing:
    """The message of a call that a link describes.

    Raises:
        PayloadTooLarge: It is larger than `most`.
    """
    message = Message(message_id, link.task, payload, time(), options=link.options)
    headers: dict[str, str] = {}
    for hook in adapters.header_hooks:
        headers |= hook(message.task, link.queue, message_id) or {}
    message.headers = headers | dict(link.headers)
    message.flow = b"" if flow == Flow() else flow.encode()
    body = message.encode(keys)
    if len(body) > most:
        raise PayloadTooLarge(
            f"call of {link.task}: {len(body)} bytes encoded with the result of the call before, "
            f"more than max_payload_bytes ({most})"
        )
    return Outgoing(link.queue, message_id, body, None, link.priority, policy_in(link.policy))


async def put_once(broker: Remembering, outgoing: Outgoing) -> None:
    """Put a following call, unless somebody has done so already.

    Raises:
        BrokerUnavailable: It may not have been put; call again.
    """
    added = await broker.replace_value(
        outgoing.queue, _PUT, outgoing.id, b"", expected=None, messages=(outgoing,)
    )
    if added:
        tell_dispatched((outgoing,))


async def forget_put(broker: Remembering, queue: str, message_id: str, seconds: float) -> None:
    """Let the note about a call that was put expire."""
    await broker.set_value(queue, _PUT, message_id, b"", ttl_seconds=seconds)


def packed_policy(policy: Policy | None) -> Sequence[Any] | None:
    """A policy in the form that `policy_in` reads."""
    return None if policy is None else astuple(policy)


def policy_in(parts: Sequence[Any] | None) -> Policy | None:
    """The policy in `packed_policy`'s form.

    Raises:
        InvalidMessage: It is damaged.
    """
    if parts is None:
        return None
    try:
        unique, limit, rate = parts
        return Policy(
            UniqueKey(*unique) if unique else None,
            LimitKey(*limit) if limit else None,
            RateKey(*rate) if rate else None,
        )
    except (TypeError, ValueError) as e:
        raise InvalidMessage("a message whose flow holds no policy where one is") from e

"""Calls that follow others: what travels of them, and how each is put once.

Owns the rule that of all who make the same call that follows, one adds it: it is put in the same
step as a note under its id, which stays for as long as the call before may come again.
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

#: The kind of the notes; how long one is kept once nothing but a run that has lost its lease can
#: look for it.
_PUT, NOTE_SECONDS = "followed", 3600.0


#: An encoded `None`: what follows a call that was skipped gets that.
NONE = b"\xc0"


def check_policies_of_link(call: Call[Any], policies: Sequence[Any]) -> None:
    """Refuse a policy whose key needs the result of the call before.

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
    """The call that follows a message's.

    Args:
        result: What that returned, encoded.
        most: `max_payload_bytes`.

    Raises:
        PayloadTooLarge: With the result it is too large.
    """
    link, rest = flow.then[0], flow.then[1:]
    after = Flow(rest, (message.queue, message.id), flow.place)
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
    """The message of a call that was described before.

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
    """Put a call that follows, unless somebody has done so.

    Raises:
        BrokerUnavailable: Not known to be put; call again.
    """
    added = await broker.replace_value(
        outgoing.queue, _PUT, outgoing.id, b"", expected=None, messages=(outgoing,)
    )
    if added:
        tell_dispatched((outgoing,))


async def forget_put(broker: Remembering, queue: str, message_id: str, seconds: float) -> None:
    """Let the note of a call that was put go after a while."""
    await broker.set_value(queue, _PUT, message_id, b"", ttl_seconds=seconds)


def packed_policy(policy: Policy | None) -> Sequence[Any] | None:
    """A policy as `policy_in` reads it."""
    return None if policy is None else astuple(policy)


def policy_in(parts: Sequence[Any] | None) -> Policy | None:
    """A policy that has travelled.

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

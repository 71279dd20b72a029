"""Prepares a call: encodes it as a message and finds out what sending it must wait for."""

from __future__ import annotations

from dataclasses import dataclass
from time import time
from typing import Any

from ..adapters.plugins import Adapters
from ..brokers import Outgoing
from ..config import Config
from ..errors import PayloadTooLarge, SerializationError
from ..policies.asking import policy_of, unique_of
from ..tasks.call import Call, Following
from ..tasks.options import TaskOptions
from ..wire.encoding import Encoded, encode_arguments
from ..wire.flow import MOST_LINKS, ChainLink, Flow
from ..wire.message import Message, moment_ms, new_id
from .commits import Registration, open_atomic, what_to_wait_for
from .following import check_policies_of_link, packed_policy
from .schedule_values import Template


@dataclass(slots=True)
class Prepared:
    """An encoded call, and what its dispatch must wait for."""

    outgoing: Outgoing
    options: TaskOptions
    defer: Registration | None = None


def prepare(call: Call[Any], config: Config, adapters: Adapters) -> Prepared:
    """Encode a call and find the transaction that it must wait for.

    Raises:
        SerializationError: An argument cannot travel.
        PayloadTooLarge: The message is larger than `max_payload_bytes`.
        ConfigurationError: A policy does not suit this call.
    """
    task = call.task
    options = call.options(config.task_defaults)
    encoded = _encoded(call, adapters)
    queue = call.queue or options.queue
    message = Message(new_id(), task.name, encoded.payload, time(), 1, call.overrides or {})
    message.headers = call.headers or {}
    if call.due is not None:
        message.due_ms = moment_ms(call.due)
    if adapters.header_hooks:
        message.headers = _with_headers(message, queue, adapters)
    its_models: list[tuple[Any, object]] = []
    if call.following or call.place is not None:
        message.flow, its_models = _flow(call, config, adapters)
    body = message.encode(config.signing_key)
    if len(body) > config.max_payload_bytes:
        raise PayloadTooLarge(
            f"call of {task.name}: {len(body)} bytes encoded, more than max_payload_bytes "
            f"({config.max_payload_bytes}); put large data where the task can fetch it"
        )
    priority = options.priority if call.priority_given is None else call.priority_given
    outgoing = Outgoing(queue, message.id, body, call.due, priority)
    if options.limit or options.rate or options.unique or call.unique_given:
        outgoing.policy = policy_of(call, options, adapters)
    prepared = Prepared(outgoing, options)
    models = [*encoded.models, *its_models] if its_models else encoded.models
    if call.wait_for is not False and (
        call.wait_for is not None or models or open_atomic() is not None
    ):
        prepared.defer = what_to_wait_for(call.wait_for, models, adapters)
    return prepared


def chain_link(
    link: Following, config: Config, adapters: Adapters
) -> tuple[ChainLink, list[tuple[Any, object]]]:
    """Encode a call that follows another; also return the model instances in its arguments.

    Raises:
        SerializationError: An argument cannot travel.
        ConfigurationError: A policy does not suit this call.
    """
    call = link.call
    options = call.options(config.task_defaults)
    encoded = _encoded(call, adapters)
    policy = None
    if options.limit or options.rate or options.unique or call.unique_given:
        if link.takes_result:
            declared = (unique_of(call, options), options.limit, options.rate)
            check_policies_of_link(call, [one for one in declared if one is not None])
        policy = policy_of(call, options, adapters)
    made = ChainLink(
        call.queue or options.queue,
        call.task.name,
        encoded.payload,
        link.takes_result,
        call.overrides or {},
        call.headers or {},
        options.priority if call.priority_given is None else call.priority_given,
        packed_policy(policy),
    )
    return made, encoded.models


def _encoded(call: Call[Any], adapters: Adapters) -> Encoded:
    task = call.task
    try:
        return encode_arguments(
            call.args,
            call.kwargs,
            task.parameter_names,
            adapters.owner_of,
            task.annotations.type_names,
            adapters.plain_form,
        )
    except SerializationError as e:
        raise _with_adapters_that_failed(e, adapters) from e.__cause__


def _flow(
    call: Call[Any], config: Config, adapters: Adapters
) -> tuple[bytes, list[tuple[Any, object]]]:
    """Encode the calls that follow and the place in a batch; also return their model instances."""
    if len(call.following) > MOST_LINKS:
        raise ValueError(f"call of {call.task.name}: more than {MOST_LINKS} calls follow")
    made = [chain_link(link, config, adapters) for link in call.following]
    flow = Flow(tuple(link for link, _ in made), None, call.place)
    return flow.encode(), [model for _, models in made for model in models]


def prepare_template(call: Call[Any], config: Config, adapters: Adapters) -> Template:
    """Encode a call that a schedule will make repeatedly.

    Raises:
        ValueError: It has its own due time, calls that follow it, or an uncommitted argument.
        SerializationError: As in `prepare`.
    """
    if call.due is not None:
        raise ValueError(f"call of {call.task.name}: a schedule says when, not delay() or at()")
    if call.following:
        raise ValueError(f"call of {call.task.name}: a schedule makes single calls, not chains")
    prepared = prepare(call, config, adapters)
    if prepared.defer is not None:
        raise ValueError(
            f"call of {call.task.name}: schedule it after the commit, or with on_commit(False)"
        )
    sent = prepared.outgoing
    message = Message.decode(sent.body, config.signing_key)
    return Template(
        sent.queue,
        message.task,
        message.payload,
        message.options,
        message.headers,
        sent.priority,
        sent.policy,
    )


def _with_headers(message: Message, queue: str, adapters: Adapters) -> dict[str, str]:
    headers: dict[str, str] = {}
    for hook in adapters.header_hooks:
        headers |= hook(message.task, queue, message.id) or {}
    return headers | dict(message.headers)


def _with_adapters_that_failed(error: SerializationError, adapters: Adapters) -> SerializationError:
    """The error; for a value of unknown type, with the adapters that failed to load."""
    failures = adapters.failures()
    if type(error) is not SerializationError or not failures:
        return error
    return SerializationError(f"{error.problem}; {failures}", error.path)

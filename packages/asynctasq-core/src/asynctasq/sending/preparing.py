"""Preparing a call: from its arguments to a message, and what its sending has to wait for."""

from __future__ import annotations

from dataclasses import dataclass
from time import time
from typing import Any

from ..adapters.plugins import Adapters
from ..brokers import Outgoing
from ..config import Config
from ..errors import PayloadTooLarge, SerializationError
from ..policies.asking import policy_of
from ..tasks.call import Call
from ..tasks.options import TaskOptions
from ..wire.encoding import encode_arguments
from ..wire.message import Message, moment_ms, new_id
from .commits import Registration, open_atomic, what_to_wait_for
from .schedule_values import Template


@dataclass(slots=True)
class Prepared:
    """A call as bytes, and what its dispatch has to wait for."""

    outgoing: Outgoing
    options: TaskOptions
    defer: Registration | None = None


def prepare(call: Call[Any], config: Config, adapters: Adapters) -> Prepared:
    """Encode a call and find the transaction that it has to wait for.

    Raises:
        SerializationError: An argument cannot travel.
        PayloadTooLarge: The message is larger than `max_payload_bytes`.
        ConfigurationError: A policy cannot be for this call.
    """
    task = call.task
    options = call.options(config.task_defaults)
    try:
        encoded = encode_arguments(
            call.args,
            call.kwargs,
            task.parameter_names,
            adapters.owner_of,
            task.annotations.type_tags,
            adapters.plain_form,
        )
    except SerializationError as e:
        raise _with_adapters_that_failed(e, adapters) from e.__cause__
    queue = call.queue or options.queue
    message = Message(new_id(), task.name, encoded.payload, time(), 1, call.overrides or {})
    message.headers = call.headers or {}
    if call.due is not None:
        message.due_ms = moment_ms(call.due)
    if adapters.header_hooks:
        message.headers = _with_headers(message, queue, adapters)
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
    if call.wait_for is not False and (
        call.wait_for is not None or encoded.models or open_atomic() is not None
    ):
        prepared.defer = what_to_wait_for(call.wait_for, encoded.models, adapters)
    return prepared


def prepare_template(call: Call[Any], config: Config, adapters: Adapters) -> Template:
    """Encode a call that a schedule is to make again and again.

    Raises:
        ValueError: It has a time of its own, or an argument that is not committed yet.
        SerializationError: As from `prepare`.
    """
    if call.due is not None:
        raise ValueError(f"call of {call.task.name}: a schedule says when, not delay() or at()")
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
    """The error; where nobody knows the value's type, with those who perhaps would have."""
    failures = adapters.failures()
    if type(error) is not SerializationError or not failures:
        return error
    return SerializationError(f"{error.problem}; {failures}", error.path)

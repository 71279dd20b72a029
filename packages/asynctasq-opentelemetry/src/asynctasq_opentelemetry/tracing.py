"""Spans of dispatches, of fetches of rows and of runs.

Owns the rule that a run belongs to the trace of its dispatch, however long ago that was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import Token
from types import TracebackType

from asynctasq import Message
from opentelemetry import context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode

from . import __version__
from .attributes import (
    BATCH_COUNT,
    ERROR_TYPE,
    MESSAGE_ID,
    MODEL,
    SYSTEM,
    Attributes,
    error_type,
    of_operation,
    of_run,
)

_tracer = trace.get_tracer("asynctasq", __version__)


def dispatched(task: str, queue: str, message_id: str) -> Mapping[str, str]:
    """Record a dispatch; returns the headers that carry its context in the message."""
    attributes = of_operation("dispatch", "create", task, queue)
    attributes[MESSAGE_ID] = message_id
    span = _tracer.start_span(f"dispatch {queue}", kind=SpanKind.PRODUCER, attributes=attributes)
    headers: dict[str, str] = {}
    propagate.inject(headers, trace.set_span_in_context(span))
    span.end()
    return headers


class RunSpan:
    """The span of one run, current while the task runs."""

    __slots__ = ("_message", "_span", "_token")

    def __init__(self, message: Message) -> None:
        self._message = message
        self._span: Span = trace.INVALID_SPAN
        self._token: Token[Context] | None = None

    async def __aenter__(self) -> RunSpan:
        message = self._message
        sender = propagate.extract(message.headers)
        is_message = bool(message.queue)
        self._span = _tracer.start_span(
            f"run {message.queue}" if is_message else f"execute {message.task}",
            context=sender if is_message else None,
            kind=SpanKind.CONSUMER if is_message else SpanKind.INTERNAL,
            attributes=of_run(message),
        )
        inside = trace.set_span_in_context(self._span, sender if is_message else None)
        self._token = context.attach(inside)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._token is not None:
            context.detach(self._token)
        if error is not None:
            _note_error(self._span, error)
        self._span.end()


@contextmanager
def fetching(model: str, messages: Sequence[Message]) -> Iterator[None]:
    """The span of one fetch: in the trace of a single message, or linked to the traces of many."""
    senders = [propagate.extract(message.headers) for message in messages]
    spans = [trace.get_current_span(sender).get_span_context() for sender in senders]
    attributes: Attributes = {SYSTEM: "asynctasq", MODEL: model, BATCH_COUNT: len(messages)}
    with _tracer.start_as_current_span(
        f"fetch {model}",
        context=senders[0] if len(senders) == 1 else Context(),
        attributes=attributes,
        links=[Link(span) for span in spans if span.is_valid],
    ):
        yield


def _note_error(span: Span, error: BaseException) -> None:
    span.record_exception(error)
    span.set_attribute(ERROR_TYPE, error_type(error))
    span.set_status(Status(StatusCode.ERROR, type(error).__name__))

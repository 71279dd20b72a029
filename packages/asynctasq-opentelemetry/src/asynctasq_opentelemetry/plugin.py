"""The hooks of asynctasq for OpenTelemetry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager

from asynctasq import Message, hookimpl
from asynctasq.events import Event

from . import measuring, tracing


@hookimpl
def message_headers(task: str, queue: str, message_id: str) -> Mapping[str, str]:
    """The trace context, for the worker."""
    return tracing.dispatched(task, queue, message_id)


@hookimpl
def task_scope(message: Message) -> AbstractAsyncContextManager[object]:
    """A span around each run, in the trace of its dispatch."""
    return tracing.RunSpan(message)


@hookimpl
def fetch_scope(model: str, messages: Sequence[Message]) -> AbstractContextManager[object]:
    """A span around each fetch of rows, linked to all runs that wait for it."""
    return tracing.fetching(model, messages)


@hookimpl
def on_event(event: Event) -> None:
    """Count and measure the event."""
    measuring.note(event)

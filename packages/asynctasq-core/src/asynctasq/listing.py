"""Calls that wait, run or are delayed, page by page."""

from __future__ import annotations

import asyncio
from typing import Any

from .app import current
from .sending.ending import RECORD_SECONDS, end
from .sending.listing import (
    CallInfo,
    CallPage,
    Chosen,
    ListedState,
    Reader,
    find,
    page_of,
    states_of,
)
from .sending.portal import portal
from .tasks.task import Task
from .wire.results import encode_cancelled

#: Calls that are cancelled at the same time.
_CANCELLED_AT_ONCE = 50


async def calls(
    state: ListedState | None = None,
    *,
    queue: str | None = None,
    task: Task[..., Any] | str | None = None,
    limit: int = 100,
    after: str | None = None,
) -> CallPage:
    """A page of the calls that queues hold, dead letters apart (`deadletters.list_dead`).

    Reads the messages only: no argument is built, and no row fetched. What a page costs does not
    grow with the queues. While calls come and go, one that moves may be left out, or come twice.

    Args:
        state: `"running"`, `"waiting"` or `"delayed"`; by default all, in this order.
        queue: Only of this queue; by default of all, by name.
        task: Only of this task: itself, its name, or a pattern such as `shop.*`. A page looks at
            2,000 messages at most, so it may hold few calls, or none, before the end.
        limit: Most calls of the page.
        after: `CallPage.after` of the page before.

    Raises:
        ValueError: There is no such state or place.
        ConfigurationError: The broker cannot list what it holds.
        BrokerUnavailable: The broker cannot be reached.
    """
    if limit < 1:
        raise ValueError("limit must be at least 1")
    chosen = Chosen(states_of(state), queue, task.name if isinstance(task, Task) else task)
    return await page_of(current().open_broker(), _reader(), chosen, limit, after)


def calls_sync(
    state: ListedState | None = None,
    *,
    queue: str | None = None,
    task: Task[..., Any] | str | None = None,
    limit: int = 100,
    after: str | None = None,
) -> CallPage:
    """`calls` for synchronous code."""
    return portal.run(calls(state, queue=queue, task=task, limit=limit, after=after))


async def cancel_calls(
    *,
    queue: str | None = None,
    task: Task[..., Any] | str | None = None,
    state: ListedState | None = None,
) -> int:
    """Cancel all calls of a queue, of a task, or of a task in a queue.

    What waits is removed; what runs is ended by its worker, as by `TaskHandle.cancel`. Calls that
    are dispatched meanwhile may be among them or not.

    Args:
        queue: Only of this queue.
        task: Only of this task: itself, its name, or a pattern such as `shop.*`.
        state: Only those that are `"running"`, `"waiting"` or `"delayed"`.

    Returns:
        How many were removed, or are being ended.

    Raises:
        ValueError: Neither a queue nor a task is given, or there is no such state.
        ConfigurationError: The broker cannot list what it holds, or not reach calls that run.
        BrokerUnavailable: The broker cannot be reached; some may have been cancelled.
    """
    if queue is None and task is None:
        raise ValueError("name a queue or a task whose calls are to be cancelled")
    # In the order in which a call goes on, so that one which does so meanwhile is met later.
    states = sorted(states_of(state), key=("delayed", "waiting", "running").index)
    name = task.name if isinstance(task, Task) else task
    broker, keys = current().open_broker(), current().config.signing_key
    ended: set[tuple[str, str]] = set()

    async def cancel(call: CallInfo) -> None:
        record = encode_cancelled(keys, call.id)
        if await end(broker, call.queue, call.id, record, RECORD_SECONDS):
            ended.add((call.queue, call.id))

    # Again, for those that went another way while they were listed.
    for _ in range(2):
        for one in states:
            after = None
            while True:
                chosen = Chosen([one], queue, name)
                page = await page_of(broker, _reader(), chosen, _CANCELLED_AT_ONCE, after)
                fresh = [call for call in page.calls if (call.queue, call.id) not in ended]
                await asyncio.gather(*map(cancel, fresh))
                if (after := page.after) is None:
                    break
    return len(ended)


def cancel_calls_sync(
    *,
    queue: str | None = None,
    task: Task[..., Any] | str | None = None,
    state: ListedState | None = None,
) -> int:
    """`cancel_calls` for synchronous code."""
    return portal.run(cancel_calls(queue=queue, task=task, state=state))


async def find_call(message_id: str, queue: str | None = None) -> CallInfo | None:
    """The call of this id, dead or alive, looked for in all queues unless one is named.

    Raises:
        ConfigurationError: The broker cannot list what it holds.
        BrokerUnavailable: The broker cannot be reached.
    """
    broker = current().open_broker()
    queues = [s.name for s in await broker.stats() if queue in (None, s.name)]
    return await find(broker, _reader(), message_id, queues)


def _reader() -> Reader:
    config = current().config
    return Reader(config.signing_key, config.show_arguments)

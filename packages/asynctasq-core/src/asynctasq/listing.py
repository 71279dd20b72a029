"""Lists waiting, delayed and running calls page by page, and cancels them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from .app import current
from .brokers import Listing
from .sending.chains import find_link
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
from .sending.progress import decode as decode_progress
from .sending.status import TaskStatus
from .sending.watching import told_progress
from .tasks.task import Task
from .wire.results import encode_cancelled

__all__ = [
    "CallInfo",
    "CallPage",
    "ListedState",
    "calls",
    "calls_sync",
    "cancel_calls",
    "cancel_calls_sync",
    "find_call",
]

#: Maximum number of running calls of a queue whose progress is shown.
_TOLD_AT_ONCE = 20

#: Number of calls to cancel at the same time.
_CANCELLED_AT_ONCE = 50

#: The order in which a call moves on, so that one moving while calls are cancelled is met later.
_ORDER: Sequence[ListedState] = ("delayed", "waiting", "running")


async def calls(
    state: ListedState | None = None,
    *,
    queue: str | None = None,
    task: Task[..., Any] | str | None = None,
    arguments: str | None = None,
    limit: int = 100,
    after: str | None = None,
) -> CallPage:
    """A page of the calls in queues, except dead letters (see `deadletters.list_dead`).

    Reads only the messages: builds no argument and fetches no row. The cost of a page does not grow
    with the queues. A call that changes state meanwhile may be missing, or come twice.

    Args:
        state: `"running"`, `"waiting"` or `"delayed"`; by default all, in this order.
        queue: Only calls in this queue; by default all queues, by name.
        task: Only calls of this task: the task, its name, or a pattern such as `shop.*`. A page
            looks at no more than 2,000 messages, so it may hold few calls, or none, and still not
            be the last.
        arguments: Only calls with this text in their arguments as they are shown, such as
            `"Order#5"`, in upper or lower case; pages are like those of a task.
        limit: Maximum number of calls in the page.
        after: `CallPage.after` of the previous page.

    Raises:
        ValueError: There is no such state or place.
        ConfigurationError: The broker cannot list what it holds.
        BrokerUnavailable: The broker cannot be reached.
    """
    if limit < 1:
        raise ValueError("limit must be at least 1")
    name = task.name if isinstance(task, Task) else task
    chosen = Chosen(states_of(state), queue, name, arguments)
    return await page_of(current().open_broker(), _reader(), chosen, limit, after)


def calls_sync(
    state: ListedState | None = None,
    *,
    queue: str | None = None,
    task: Task[..., Any] | str | None = None,
    arguments: str | None = None,
    limit: int = 100,
    after: str | None = None,
) -> CallPage:
    """`calls` for synchronous code."""
    return portal.run(
        calls(state, queue=queue, task=task, arguments=arguments, limit=limit, after=after)
    )


async def cancel_calls(
    *,
    queue: str | None = None,
    task: Task[..., Any] | str | None = None,
    state: ListedState | None = None,
) -> int:
    """Cancel all calls of a queue, of a task, or of a task in a queue.

    Waiting calls are removed; workers end running ones, as with `TaskHandle.cancel`. Calls
    dispatched meanwhile may or may not be cancelled.

    Args:
        queue: Only calls in this queue.
        task: Only calls of this task: the task, its name, or a pattern such as `shop.*`.
        state: Only calls that are `"running"`, `"waiting"` or `"delayed"`.

    Returns:
        How many were removed, or are being ended.

    Raises:
        ValueError: Neither a queue nor a task is given, or there is no such state.
        ConfigurationError: The broker cannot list what it holds, or cannot reach running calls.
        BrokerUnavailable: The broker cannot be reached; some may have been cancelled.
    """
    if queue is None and task is None:
        raise ValueError("name a queue or a task whose calls to cancel")
    states = sorted(states_of(state), key=_ORDER.index)
    name = task.name if isinstance(task, Task) else task
    return await _cancel_all([Chosen([one], queue, name) for one in states])


async def cancel_those(belongs: Callable[[CallInfo], Awaitable[bool]]) -> int:
    """Cancel all calls for which `belongs` holds, as `cancel_calls`; looks at every call."""
    states = sorted(states_of(None), key=_ORDER.index)
    return await _cancel_all([Chosen([one]) for one in states], belongs)


async def _cancel_all(
    those: Sequence[Chosen], belongs: Callable[[CallInfo], Awaitable[bool]] | None = None
) -> int:
    broker = current().open_broker()
    ended: set[tuple[str, str]] = set()

    async def cancel(call: CallInfo) -> None:
        if (call.queue, call.id) in ended or (belongs is not None and not await belongs(call)):
            return
        if await _cancel(call):
            ended.add((call.queue, call.id))

    # Twice, to catch calls that moved back while they were listed.
    for chosen in (*those, *those):
        after = None
        while True:
            page = await page_of(broker, _reader(), chosen, _CANCELLED_AT_ONCE, after)
            await asyncio.gather(*map(cancel, page.calls))
            if (after := page.after) is None:
                break
    return len(ended)


async def cancel_call(message_id: str, queue: str | None = None) -> bool:
    """Cancel the call with this id, in any queue unless one is named.

    Returns:
        Whether it was removed, or is being ended.

    Raises:
        ConfigurationError: The broker cannot reach running calls.
        BrokerUnavailable: The broker cannot be reached.
    """
    for name in [name for name in await queue_names() if queue in (None, name)]:
        if await cancel_in(name, message_id):
            return True
    return False


async def cancel_in(queue: str, message_id: str) -> bool:
    """Cancel the call with this id in this queue; as `cancel_call`."""
    broker = current().open_broker()
    found = CallInfo(message_id, queue, TaskStatus.UNKNOWN)
    if isinstance(broker, Listing):
        for held in await broker.find_held(queue, [message_id]):
            found = _reader().held(held)
    return await _cancel(found)


async def _cancel(call: CallInfo) -> bool:
    """Cancel a call and tell its batch; the end of a running call tells it as well."""
    app = current()
    record = encode_cancelled(app.config.signing_key, call.id)
    is_ended = await end(app.open_broker(), call.queue, call.id, record, RECORD_SECONDS)
    if is_ended and call.place is not None:
        await app.tell_cancelled(call.place)
    return is_ended


def cancel_calls_sync(
    *,
    queue: str | None = None,
    task: Task[..., Any] | str | None = None,
    state: ListedState | None = None,
) -> int:
    """`cancel_calls` for synchronous code."""
    return portal.run(cancel_calls(queue=queue, task=task, state=state))


async def find_call(message_id: str, queue: str | None = None) -> CallInfo | None:
    """The call with this id, dead or alive, in any queue unless one is named.

    If its turn in a chain has not come, what the earlier call says of it.

    Raises:
        ConfigurationError: The broker cannot list what it holds.
        BrokerUnavailable: The broker cannot be reached.
    """
    names, broker = await queue_names(), current().open_broker()
    queues = [name for name in names if queue in (None, name)]
    found = await find(broker, _reader(), message_id, queues)
    return found or await find_link(broker, _reader(), message_id, names)


async def told_running(queues: Sequence[str]) -> list[CallInfo]:
    """Up to 20 running calls of each queue, those of them that have told their progress.

    Nothing if the broker cannot list what it holds, or keeps no progress.

    Raises:
        BrokerUnavailable: The broker cannot be reached.
    """
    broker = current().open_broker()
    if not isinstance(broker, Listing):
        return []
    found: list[CallInfo] = []
    for queue in queues:
        running = (await broker.held(queue, "running", limit=_TOLD_AT_ONCE)).messages
        told = [await told_progress(broker, queue, held.id) for held in running]
        for held, value in zip(running, told, strict=True):
            if value is not None and (progress := decode_progress(value)) is not None:
                found.append(replace(_reader().held(held), progress=progress))
    return found


async def queue_names() -> list[str]:
    """Names of the queues that the broker knows."""
    return [stats.name for stats in await current().open_broker().stats()]


def _reader() -> Reader:
    config = current().config
    return Reader(config.signing_key, config.show_arguments)

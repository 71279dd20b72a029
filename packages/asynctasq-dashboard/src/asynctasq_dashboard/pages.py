"""The pages: what each shows.

Owns the rule that looking is bounded: the number of questions to the broker does not grow with what
the queues hold, and neither does a page.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from asynctasq import deadletters, history, listing, looking, pausing, scheduling
from asynctasq.listing import CallInfo
from asynctasq.looking import KeyInUse, QueueStats
from starlette.exceptions import HTTPException

from .attention import problems
from .charts import Hour, by_queue, by_task
from .filters import NAMES, Chosen
from .text import dispatched_at
from .view import View

Context = dict[str, Any]

#: Maximum number of lines in a page, of queues whose keys are shown, and of dead letters to search
#: and to group.
LINES, MOST_QUEUES, MOST_SEARCHED, MOST_GROUPED = 100, 20, 5000, 2000

#: Maximum number of queues whose pauses are shown.
MOST_PAUSES = 50

#: Maximum number of pages of calls that a search looks through.
MOST_PARTS = 10

STATES = ("running", "waiting", "delayed")

#: Number of lines in the lists of the overview.
_FEW = 12


@dataclass(frozen=True, slots=True)
class Page:
    """One page.

    Attributes:
        build: Gathers what its template shows.
        is_live: Whether it updates while somebody looks at it.
    """

    path: str
    title: str
    template: str
    build: Callable[[View], Awaitable[Context]]
    is_in_menu: bool = True
    is_live: bool = True


async def overview(view: View) -> Context:
    """What happened in the last hour, and what needs attention."""
    queues, workers = await looking.queues(), await looking.workers()
    kept, outboxes = await history.minutes(), await looking.outboxes()
    hour = Hour.of(kept or ())
    longest = sorted(queues, key=_by_line)[:_FEW]
    pauses = await pausing.pauses([queue.name for queue in longest])
    since = await looking.waiting_since([queue.name for queue in longest if queue.waiting])
    return {
        "queues": longest,
        "since": since,
        "count": len(queues),
        "sums": _sums(queues),
        "workers": workers,
        "running": sum(worker.running for worker in workers),
        "places": sum(worker.concurrency for worker in workers),
        "has_history": bool(kept),
        "hour": hour,
        "total": hour.total,
        "lines": by_task(kept or ())[:_FEW],
        "outboxes": outboxes,
        "problems": problems(queues, workers, kept or (), outboxes, pauses),
        "by_queue": by_queue(kept or ()),
    }


def _by_line(queue: QueueStats) -> tuple[int, int, int, str]:
    return -queue.waiting, -queue.running, -queue.dead, queue.name


def _sums(queues: Iterable[QueueStats]) -> dict[str, int]:
    states = ("waiting", "running", "delayed", "dead")
    return {state: sum(getattr(queue, state) for queue in queues) for state in states}


async def queues(view: View) -> Context:
    """All queues, longest line first."""
    part = view.parameter("search").lower()
    found = [queue for queue in await looking.queues() if part in queue.name.lower()]
    found.sort(key=_by_line)
    offset = view.offset()
    shown = found[offset : offset + LINES]
    busy = [queue.name for queue in shown if queue.waiting]
    served = set(chain.from_iterable(worker.queues for worker in await looking.workers()))
    return {
        "queues": shown,
        "served": served,
        "since": await looking.waiting_since(busy[:MOST_QUEUES]),
        "pauses": await pausing.pauses([queue.name for queue in shown[:MOST_PAUSES]]),
        "by_queue": by_queue(await history.minutes() or ()),
        **_paged(view, offset, len(found)),
    }


def _paged(view: View, offset: int, count: int, *parameters: str) -> Context:
    """Links to the previous and the next page."""
    kept = view.chosen("search", *parameters)
    path = view.request.url.path.removeprefix(view.base)
    before = view.address(path, **kept, offset=max(0, offset - LINES) or None)
    after = view.address(path, **kept, offset=offset + LINES)
    return {
        "first": min(offset + 1, count),
        "last": min(offset + LINES, count),
        "of": count,
        "before": before if offset > 0 else "",
        "after": after if count > offset + LINES else "",
    }


async def dead(view: View) -> Context:
    """Dead letters, in groups or one by one."""
    chosen = Chosen.of(view.parameter)
    stats = await looking.queues()
    context = {
        "chosen": chosen.texts,
        "names": NAMES if looking.shows_arguments() else NAMES[:-1],
        "queue_names": [queue.name for queue in stats if queue.dead][:LINES],
        "total": sum(q.dead for q in stats if chosen.queue in (None, q.name)),
        "is_grouped": view.parameter("by") != "one",
    }
    if context["is_grouped"]:
        found, looked_at = await deadletters.groups(
            chosen.queue, where=chosen.where, most=MOST_GROUPED
        )
        return {**context, "groups": found[:LINES], "looked_at": looked_at}
    offset = view.offset()
    letters, is_all = await deadletters.search(
        chosen.queue, limit=LINES + 1, offset=offset, where=chosen.where, most=MOST_SEARCHED
    )
    more = view.address("/dead", by="one", **chosen.texts, offset=offset + LINES)
    less = view.address("/dead", by="one", **chosen.texts, offset=max(0, offset - LINES) or None)
    return {
        **context,
        "letters": letters[:LINES],
        "is_all": is_all,
        "looked_at": MOST_SEARCHED,
        "offset": offset,
        "after": more if len(letters) > LINES else "",
        "before": less if offset else "",
    }


async def calls(view: View) -> Context:
    """Waiting, delayed and running calls."""
    chosen = view.chosen("state", "queue", "task", "arguments")
    if chosen.get("state") not in STATES:
        chosen.pop("state", None)
    found, after = await _listed(chosen, view.parameter("after") or None)
    return {
        "chosen": chosen,
        "states": STATES,
        "names": ("queue", "task", "arguments") if looking.shows_arguments() else ("queue", "task"),
        "queue_names": [queue.name for queue in await looking.queues()][:LINES],
        "calls": found,
        "is_first": not view.parameter("after"),
        "start": view.address("/calls", **chosen),
        "after": view.address("/calls", **chosen, after=after) if after else "",
    }


async def _listed(chosen: dict[str, str], after: str | None) -> tuple[list[CallInfo], str | None]:
    """The calls of a page, found among a bounded number, and where the next page begins."""
    part = chosen.get("arguments", "").lower()
    state, queue, task = (chosen.get(name) for name in ("state", "queue", "task"))
    found: list[CallInfo] = []
    for _ in range(MOST_PARTS if part else 1):
        try:
            page = await listing.calls(
                state,  # type: ignore[arg-type]
                queue=queue,
                task=task,
                limit=LINES - len(found),
                after=after,
            )
        except ValueError as e:
            raise HTTPException(400, "There is no such place in this list.") from e
        found += [one for one in page.calls if part in one.arguments.lower()]
        after = page.after
        if after is None or len(found) == LINES:
            break
    return found, after


async def call(view: View) -> Context:
    """One call, with everything known about it."""
    message_id, queue = view.parameter("id"), view.parameter("queue") or None
    found = await listing.find_call(message_id, queue) if message_id else None
    if found is None:
        raise HTTPException(404, f"There is no call {message_id!r} (any more).")
    since = found.enqueued_at if found.enqueued_at is not None else dispatched_at(found.id)
    return {
        "call": found,
        "dispatched_at": since,
        "rows": [(reference, view.links.address(reference)) for reference in found.references],
        "is_held": found.state in STATES,
        "is_dead": found.state == "dead",
    }


async def workers(view: View) -> Context:
    """The processes that run tasks."""
    found = sorted(await looking.workers(), key=lambda worker: (worker.host, worker.pid))
    offset = view.offset()
    return {"workers": found[offset : offset + LINES], **_paged(view, offset, len(found))}


async def schedules(view: View) -> Context:
    """Schedules of calls that workers make by themselves."""
    part = view.parameter("search").lower()
    found = [one for one in await scheduling.schedules() if part in one.name.lower()]
    offset = view.offset()
    return {"schedules": found[offset : offset + LINES], **_paged(view, offset, len(found))}


async def keys(view: View) -> Context:
    """Keys of unique calls, limits and rates."""
    queue = view.parameter("queue")
    stats = sorted(await looking.queues(), key=_by_line)
    names = [queue] if queue else [q.name for q in stats if q.waiting or q.running or q.delayed]
    found: list[tuple[str, KeyInUse]] = []
    has_keys = True
    for name in names[:MOST_QUEUES]:
        in_use = await looking.keys_in_use(name, limit=LINES)
        has_keys = in_use is not None
        found += [(name, key) for key in in_use or ()]
    found.sort(key=lambda pair: -pair[1].waiting)
    return {
        "keys": found[:LINES],
        "has_keys": has_keys,
        "queue": queue,
        "queue_names": [q.name for q in stats][:LINES],
        "left_out": max(0, len(names) - MOST_QUEUES),
    }


async def work(view: View) -> Context:
    """The progress of something that takes a while."""
    found = view.works.get(view.parameter("id"))
    if found is None:
        raise HTTPException(404, "This process of the server does no such work, or not any more.")
    return {"work": found}


PAGES: Sequence[Page] = (
    Page("/", "Overview", "overview.html", overview),
    Page("/queues", "Queues", "queues.html", queues),
    Page("/calls", "Calls", "calls.html", calls),
    Page("/dead", "Dead letters", "dead.html", dead),
    Page("/workers", "Workers", "workers.html", workers),
    Page("/schedules", "Schedules", "schedules.html", schedules),
    Page("/keys", "Keys", "keys.html", keys),
    Page("/call", "Call", "call.html", call, is_in_menu=False, is_live=False),
    Page("/work", "Work", "work.html", work, is_in_menu=False),
)

"""The pages: what each shows.

Owns the rule that looking is bounded: a page asks a number of questions that does not grow with
what lies in the queues, and shows so many lines at most.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from asynctasq import deadletters, history, looking, scheduling
from asynctasq.looking import KeyInUse, QueueStats
from starlette.exceptions import HTTPException

from .attention import problems
from .charts import Hour, by_queue, by_task
from .filters import NAMES, Chosen
from .text import dispatched_at
from .view import View

Context = dict[str, Any]

#: Lines of a page; queues whose keys are asked for; dead letters that are searched, and grouped.
LINES, MOST_QUEUES, MOST_SEARCHED, MOST_GROUPED = 100, 20, 5000, 2000

#: Lines of the overview.
_FEW = 12


@dataclass(frozen=True, slots=True)
class Page:
    """One page.

    Attributes:
        build: What its template shows.
        is_live: Whether it is sent again while it is looked at.
    """

    path: str
    title: str
    template: str
    build: Callable[[View], Awaitable[Context]]
    is_in_menu: bool = True
    is_live: bool = True


async def overview(view: View) -> Context:
    """What went on in the last hour, and what wants attention."""
    queues, workers = await looking.queues(), await looking.workers()
    kept, outboxes = await history.minutes(), await looking.outboxes()
    hour = Hour.of(kept or ())
    return {
        "queues": sorted(queues, key=_by_line)[:_FEW],
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
        "problems": problems(queues, workers, kept or (), outboxes),
        "by_queue": by_queue(kept or ()),
    }


def _by_line(queue: QueueStats) -> tuple[int, int, int, str]:
    return -queue.waiting, -queue.running, -queue.dead, queue.name


def _sums(queues: Iterable[QueueStats]) -> dict[str, int]:
    states = ("waiting", "running", "delayed", "dead")
    return {state: sum(getattr(queue, state) for queue in queues) for state in states}


async def queues(view: View) -> Context:
    """All queues, those with the longest lines first."""
    part = view.parameter("search").lower()
    found = [queue for queue in await looking.queues() if part in queue.name.lower()]
    found.sort(key=_by_line)
    served = set(chain.from_iterable(worker.queues for worker in await looking.workers()))
    offset = view.offset()
    return {
        "queues": found[offset : offset + LINES],
        "served": served,
        "by_queue": by_queue(await history.minutes() or ()),
        **_paged(view, offset, len(found)),
    }


def _paged(view: View, offset: int, count: int, *parameters: str) -> Context:
    """Where the page before and after begin."""
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
    """Dead letters by what they have in common, or one by one."""
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


async def call(view: View) -> Context:
    """One call with all that is known of it."""
    message_id, queue = view.parameter("id"), view.parameter("queue") or None
    letter = await deadletters.show(message_id, queue) if message_id else None
    if letter is None:
        raise HTTPException(404, f"There is no dead letter {message_id!r} (any more).")
    rows = [(reference, view.links.address(reference)) for reference in letter.references]
    return {"letter": letter, "dispatched_at": dispatched_at(letter.id), "rows": rows}


async def workers(view: View) -> Context:
    """The processes that run tasks."""
    found = sorted(await looking.workers(), key=lambda worker: (worker.host, worker.pid))
    offset = view.offset()
    return {"workers": found[offset : offset + LINES], **_paged(view, offset, len(found))}


async def schedules(view: View) -> Context:
    """Calls that workers make by themselves."""
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
    """How far something has come that takes a while."""
    found = view.works.get(view.parameter("id"))
    if found is None:
        raise HTTPException(404, "This process of the server does no such work, or not any more.")
    return {"work": found}


PAGES: Sequence[Page] = (
    Page("/", "Overview", "overview.html", overview),
    Page("/queues", "Queues", "queues.html", queues),
    Page("/dead", "Dead letters", "dead.html", dead),
    Page("/workers", "Workers", "workers.html", workers),
    Page("/schedules", "Schedules", "schedules.html", schedules),
    Page("/keys", "Keys", "keys.html", keys),
    Page("/call", "Call", "call.html", call, is_in_menu=False, is_live=False),
    Page("/work", "Work", "work.html", work, is_in_menu=False),
)

"""The actions: each is a POST, and asks for confirmation if it cannot be undone.

An action takes the view of the request and returns the address to go to.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from asynctasq import deadletters, looking, pausing, scheduling

from .filters import Chosen
from .view import View
from .work import Work

_SAID = {
    "retried": "Put {n} back on their queues.",
    "deleted": "Deleted {n}.",
    "purged": "Deleted {n} calls that were waiting or delayed.",
    "begun": "Made the call {n}.",
    "cancelled": "Cancelled.",
    "paused": "Paused.",
    "resumed": "Resumed.",
    "missing": "It is no longer there.",
}


def said(key: str, n: str) -> str:
    """What an action has done, as the address says; never text that somebody else wrote."""
    text = _SAID.get(key, "")
    is_plain = n.isascii() and n.isalnum() and len(n) <= 40
    return text.replace("{n}", n if is_plain else "some")


@dataclass(frozen=True, slots=True)
class Action:
    """Something to do.

    Attributes:
        question: Asked first, if it cannot be undone.
    """

    do: Callable[[View], Awaitable[str]]
    question: Callable[[View], str] | None = None


def _ids(view: View) -> list[str]:
    return [message_id[:200].replace("\0", "") for message_id in view.form.get("id", [])]


async def _retry_chosen(view: View) -> str:
    count = await deadletters.retry(view.sent("queue") or None, _ids(view))
    return view.back(said="retried" if count else "missing", n=count)


async def _purge_chosen(view: View) -> str:
    count = await deadletters.purge(view.sent("queue") or None, _ids(view))
    return view.back(said="deleted" if count else "missing", n=count)


def _about_chosen(view: View) -> str:
    count = len(_ids(view))
    return f"Delete {count} dead letter{'' if count == 1 else 's'} for ever?"


async def _retry_fitting(view: View) -> str:
    return await _many(view, deadletters.retry, "Retry", "retried")


async def _purge_fitting(view: View) -> str:
    return await _many(view, deadletters.purge, "Delete", "deleted")


async def _many(
    view: View, function: Callable[..., Awaitable[int]], verb: str, what_was_done: str
) -> str:
    chosen = Chosen.of(view.sent)
    # Without conditions use a filter that matches all, so that the work goes page by page.
    where = chosen.where or deadletters.Filter()
    total = sum(q.dead for q in await looking.queues() if chosen.queue in (None, q.name))
    work = Work(f"{verb} dead letters{chosen}", total, view.back())

    async def do(note: Callable[[int], object]) -> int:
        return await function(chosen.queue, None, where, on_progress=note)

    await view.works.begin(work, do)
    if work.is_over and not work.error:
        return view.back(said=what_was_done, n=work.done)
    return view.address("/work", id=work.id)


def _about_fitting(view: View) -> str:
    return f"Delete all dead letters{Chosen.of(view.sent)} for ever?"


async def _purge_queue(view: View) -> str:
    return view.back(said="purged", n=await looking.purge(view.sent("queue")))


def _about_queue(view: View) -> str:
    return f"Delete everything waiting or delayed in the queue {view.sent('queue')!r}?"


async def _run_schedule(view: View) -> str:
    message_id = await scheduling.run_now(view.sent("name"))
    return view.back(said="begun" if message_id else "missing", n=message_id or 0)


async def _pause_schedule(view: View) -> str:
    return view.back(said="paused" if await scheduling.pause(view.sent("name")) else "missing")


async def _resume_schedule(view: View) -> str:
    return view.back(said="resumed" if await scheduling.resume(view.sent("name")) else "missing")


async def _pause(view: View) -> str:
    client = view.request.client
    by = f"the dashboard, from {client.host}" if client else "the dashboard"
    queue, task = view.sent("queue") or None, view.sent("task") or None
    await pausing.pause(queue=queue, task=task, where=_where(view), by=by)
    return view.back(said="paused")


async def _resume(view: View) -> str:
    queue, task = view.sent("queue") or None, view.sent("task") or None
    found = await pausing.resume(queue=queue, task=task, where=_where(view))
    return view.back(said="resumed" if found else "missing")


def _where(view: View) -> dict[str, str] | None:
    """The arguments that limit a pause, each from a pair of fields."""
    names, texts = view.form.get("argument", []), view.form.get("text", [])
    return {name: text for name, text in zip(names, texts, strict=False) if name} or None


async def _cancel(view: View) -> str:
    found = await looking.cancel(view.sent("queue"), view.sent("id"))
    return view.back(said="cancelled" if found else "missing")


def _about_call(view: View) -> str:
    return f"Cancel the call {view.sent('id')}? If it is running, it will be ended."


ACTIONS = {
    "pause": Action(_pause),
    "resume": Action(_resume),
    "cancel": Action(_cancel, _about_call),
    "retry": Action(_retry_chosen),
    "delete": Action(_purge_chosen, _about_chosen),
    "retry-all": Action(_retry_fitting),
    "delete-all": Action(_purge_fitting, _about_fitting),
    "purge": Action(_purge_queue, _about_queue),
    "run-schedule": Action(_run_schedule),
    "pause-schedule": Action(_pause_schedule),
    "resume-schedule": Action(_resume_schedule),
}

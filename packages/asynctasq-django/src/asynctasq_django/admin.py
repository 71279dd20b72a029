"""Dead letters, queues, schedules and workers in Django's admin.

Owns the rule that Django's permissions decide who may do what: `view` to look, `change` to retry,
pause and run, `delete` to delete for good.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from asynctasq import BrokerError, class_path, deadletters, looking, pausing, scheduling
from asynctasq.deadletters import Filter, Reference
from asynctasq.looking import run_sync
from django.apps import apps
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, URLPattern, path, reverse

from .models import DeadCall, Queue
from .moving import for_a_while

#: Number of lines in a page.
LINES = 100

#: Maximum number of queues whose pauses are shown, as each takes a question to the broker.
MOST_PAUSES = 50

#: The fields of a filter.
_NAMES = ("queue", "task", "error", "reason", "arguments")

#: Maximum length of a filter's text.
_LONGEST = 300


if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:  # generic for type checkers alone
    ModelAdmin = admin.ModelAdmin


class _Page(ModelAdmin):
    """A custom page in place of a list of rows."""

    page_template = ""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nothing is added by hand."""
        return False

    def get_urls(self) -> list[URLPattern]:
        """Only the page, since there are no rows to change."""
        name = f"{self.opts.app_label}_{self.opts.model_name}_changelist"
        return [path("", self.admin_site.admin_view(self.changelist_view), name=name)]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the page, or do what a form asks for."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        try:
            if request.method == "POST":
                return self.act(request)
            context = self.look(request)
        except BrokerError as e:
            messages.error(request, f"The broker did not answer: {e}")
            context = {"is_away": True}
        return self.render(request, self.page_template, context | (extra_context or {}))

    def render(self, request: HttpRequest, template: str, context: dict[str, Any]) -> HttpResponse:
        """Render a page that looks like the admin's own."""
        given = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": str(self.opts.verbose_name_plural).capitalize(),
            "may_change": self.has_change_permission(request),
            "may_delete": self.has_delete_permission(request),
            **context,
        }
        return TemplateResponse(request, template, given)

    def look(self, request: HttpRequest) -> dict[str, Any]:
        """What the page shows."""
        raise NotImplementedError

    def act(self, request: HttpRequest) -> HttpResponse:
        """Do what a form asks for."""
        raise NotImplementedError

    def ask(self, request: HttpRequest, question: str) -> HttpResponse:
        """Ask for confirmation of something that cannot be undone."""
        fields = [
            (name, value)
            for name, values in request.POST.lists()
            if name not in ("csrfmiddlewaretoken", "sure")
            for value in values
        ]
        context = {"question": question, "fields": fields, "back": request.get_full_path()}
        return self.render(request, "admin/asynctasq_django/sure.html", context)

    def need(self, is_allowed: bool) -> None:
        """Refuse actions for which the user has no permission."""
        if not is_allowed:
            raise PermissionDenied


@admin.register(DeadCall)
class DeadCallAdmin(_Page):
    """Calls that failed for good."""

    page_template = "admin/asynctasq_django/dead_calls.html"

    def look(self, request: HttpRequest) -> dict[str, Any]:
        """One dead letter, or a page of them and the groups they form."""
        if message_id := request.GET.get("id"):
            return self._one(message_id, request.GET.get("queue") or None)
        chosen = _chosen(request.GET.get)
        queue, where = chosen.get("queue"), _filter(chosen)
        offset = _offset(request.GET.get("offset", ""))
        letters, is_all = run_sync(
            deadletters.search(queue, limit=LINES + 1, offset=offset, where=where)
        )
        groups, looked_at = run_sync(deadletters.groups(queue, where=where))
        address = urlencode(chosen)
        return {
            "chosen": chosen,
            "filters": [
                (name, chosen.get(name, ""))
                for name in _NAMES
                if name != "arguments" or looking.shows_arguments()
            ],
            "groups": [(group, urlencode(chosen | group.filter)) for group in groups[:20]],
            "looked_at": looked_at,
            "letters": letters[:LINES],
            "is_all": is_all,
            "before": f"?{address}&offset={max(0, offset - LINES)}" if offset else "",
            "after": f"?{address}&offset={offset + LINES}" if len(letters) > LINES else "",
        }

    def _one(self, message_id: str, queue: str | None) -> dict[str, Any]:
        letter = run_sync(deadletters.show(message_id, queue))
        if letter is None:
            raise Http404("There is no such dead letter (any more).")
        rows = [(reference, _address(reference)) for reference in letter.references]
        return {"letter": letter, "rows": rows, "title": letter.task or "(unreadable)"}

    def act(self, request: HttpRequest) -> HttpResponse:
        """Retry or delete the ticked dead letters, or all that match."""
        is_deleted = request.POST.get("do", "").startswith("delete")
        self.need(
            self.has_delete_permission(request)
            if is_deleted
            else self.has_change_permission(request)
        )
        is_all = request.POST.get("do", "").endswith("-all")
        chosen, ids = _chosen(request.POST.get), request.POST.getlist("id")
        if not is_all and not ids:
            messages.warning(request, "Nothing was selected.")
            return HttpResponseRedirect(request.get_full_path())
        if is_deleted and not request.POST.get("sure"):
            what = f"all that fit {chosen}" if is_all else f"{len(ids)} dead letters"
            return self.ask(request, f"Delete {what} for ever?")
        function = deadletters.purge if is_deleted else deadletters.retry
        queue, is_over = chosen.get("queue"), True
        if is_all:
            count, is_over = for_a_while(function, queue, _filter(chosen) or Filter())
        else:
            count = run_sync(function(queue, ids))
        what_was_done = "Deleted" if is_deleted else "Put back on their queues:"
        messages.success(request, f"{what_was_done} {count:,}.")
        if not is_over:
            again = "purge" if is_deleted else "retry"
            messages.warning(
                request,
                "A request has no time for more, so there may be others: do it again, or run "
                f"`asynctasq dead {again}`, which does not end before all are moved.",
            )
        elif not is_all and count < len(set(ids)):
            messages.warning(request, f"{len(set(ids)) - count:,} were no dead letters any more.")
        return HttpResponseRedirect(request.path + (f"?{urlencode(chosen)}" if chosen else ""))


@admin.register(Queue)
class QueueAdmin(_Page):
    """Queues, the workers that serve them, and schedules."""

    page_template = "admin/asynctasq_django/queues.html"

    def look(self, request: HttpRequest) -> dict[str, Any]:
        """All three."""
        queues, workers = run_sync(looking.queues()), run_sync(looking.workers())
        queues.sort(key=lambda queue: (-queue.waiting, -queue.running, queue.name))
        pauses = run_sync(pausing.pauses([queue.name for queue in queues[:MOST_PAUSES]]))
        return {
            "queues": queues[:LINES],
            "pauses": pauses,
            "paused": {pause.queue for pause in pauses if not pause.task},
            "left_out": max(0, len(queues) - LINES),
            "served": {name for worker in workers for name in worker.queues},
            "workers": workers[:LINES],
            "schedules": run_sync(scheduling.schedules())[:LINES],
            "broker": looking.describe(),
        }

    def act(self, request: HttpRequest) -> HttpResponse:
        """Pause, resume or purge a queue; run, pause or resume a schedule."""
        action, name = request.POST.get("do", ""), request.POST.get("name", "")
        if action == "purge":
            self.need(self.has_delete_permission(request))
            if not request.POST.get("sure"):
                return self.ask(request, f"Delete everything waiting or delayed in {name!r}?")
            said = f"Deleted {run_sync(looking.purge(name))} calls."
        elif action in _ON_QUEUES:
            self.need(self.has_change_permission(request))
            try:
                run_sync(_ON_QUEUES[action](name, f"{request.user} in the admin"))
            except ValueError as e:  # the form was not ours
                messages.error(request, f"Nothing was done: {e}")
                return HttpResponseRedirect(request.path)
            said = f"{name}: {action.replace('-', ' ')}, done."
        elif action in _ON_SCHEDULES:
            self.need(self.has_change_permission(request))
            done = run_sync(_ON_SCHEDULES[action](name))
            said = f"Done: {action}." if done else "There is no such schedule any more."
        else:
            raise PermissionDenied
        messages.success(request, said)
        return HttpResponseRedirect(request.path)


async def _pause(name: str, by: str) -> None:
    await pausing.pause(queue=name, by=by)


async def _resume(name: str, by: str) -> None:
    await pausing.resume(queue=name)


_ON_QUEUES: dict[str, Callable[[str, str], Any]] = {
    "pause-queue": _pause,
    "resume-queue": _resume,
}
_ON_SCHEDULES: dict[str, Callable[[str], Any]] = {
    "run": scheduling.run_now,
    "pause": scheduling.pause,
    "resume": scheduling.resume,
}


def _chosen(value: Callable[[str], str | None]) -> dict[str, str]:
    """The filled-in fields of a filter."""
    # PostgreSQL takes no text with a null character.
    texts = ((n, (value(n) or "").replace("\0", "").strip()[:_LONGEST]) for n in _NAMES)
    return {name: text for name, text in texts if text}


def _filter(chosen: dict[str, str]) -> Filter | None:
    asked = [chosen.get(name) for name in _NAMES[1:]]
    if not any(asked):
        return None
    task, error, reason, arguments = asked
    return Filter(task=task, error=error, reason=reason, arguments=arguments)


def _offset(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _address(reference: Reference) -> str | None:
    """The address of the row's page in the admin, if there is one."""
    for model in apps.get_models():
        if class_path(model) == reference.model:
            name = f"admin:{model._meta.app_label}_{model._meta.model_name}_change"
            try:
                return reverse(name, args=[reference.key])
            except NoReverseMatch:
                return None
    return None

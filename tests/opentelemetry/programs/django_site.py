"""Prints the spans of one request to an instrumented Django site and of the worker after it.

Arguments: the path of a SQLite database to make; `commit` or `rollback`, as the request ends.
"""

from __future__ import annotations

import asyncio
import json
import sys

import django
from django.conf import settings
from opentelemetry import trace
from opentelemetry.instrumentation.django import DjangoInstrumentor
from opentelemetry.instrumentation.sqlite3 import SQLite3Instrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

settings.configure(
    ROOT_URLCONF=__name__,
    SECRET_KEY="x",
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1]}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=["asynctasq_django", "django.contrib.contenttypes", "django.contrib.auth"],
    ASYNCTASQ={"driver": "memory"},
    USE_TZ=True,
)
provider, exported = TracerProvider(), InMemorySpanExporter()
provider.add_span_processor(SimpleSpanProcessor(exported))
trace.set_tracer_provider(provider)
SQLite3Instrumentor().instrument()
DjangoInstrumentor().instrument()
django.setup()

import asynctasq  # noqa: E402 - the order in which `opentelemetry-instrument` has them
from django.contrib.auth.models import Group  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import transaction  # noqa: E402
from django.http import HttpRequest, HttpResponse  # noqa: E402
from django.test import Client  # noqa: E402
from django.urls import path  # noqa: E402


@asynctasq.task
async def rename(group: Group) -> None:
    """Change the row."""
    group.name = "renamed"
    await group.asave()


def order(request: HttpRequest) -> HttpResponse:
    """Make a row, and dispatch a call that takes it before the transaction ends."""
    with transaction.atomic():
        rename(Group.objects.create(name="new")).dispatch_sync()
        transaction.set_rollback(sys.argv[2] == "rollback")
    return HttpResponse()


urlpatterns = [path("order/", order)]

call_command("migrate", verbosity=0)
exported.clear()
assert Client().get("/order/").status_code == 200
asyncio.run(asynctasq.Worker(burst=True).run())
spans = exported.get_finished_spans()
names = {span.context.span_id: span.name for span in spans}
print(
    json.dumps(
        [
            (span.context.trace_id, names[span.parent.span_id] if span.parent else None, span.name)
            for span in spans
        ]
    )
)

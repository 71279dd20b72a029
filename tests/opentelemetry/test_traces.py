"""Traces and metrics as OpenTelemetry's SDK records them, from a dispatch to the end of its run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import asynctasq
import asynctasq.adapters.plugins
import asynctasq.app
import asynctasq.events
import asynctasq_opentelemetry.plugin
import asynctasq_opentelemetry.tracing
import pytest
import pytest_asyncio
from asynctasq import Worker
from asynctasq.adapters.plugins import Adapters
from asynctasq_opentelemetry import measuring
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

sys.path.insert(0, str(Path(__file__).parents[1] / "core" / "application"))

from toy_orm import Toy, User

exported = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exported))
tracer = provider.get_tracer("application")
Named = Callable[[str], list[ReadableSpan]]


@pytest.fixture(autouse=True)
def _recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by the provider of the process, which would record the tests of others too."""
    monkeypatch.setattr(
        asynctasq_opentelemetry.tracing, "_tracer", provider.get_tracer("asynctasq")
    )


@pytest.fixture(scope="session")
def reader() -> InMemoryMetricReader:
    """Reads what was measured since the last time."""
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))
    return reader


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    """An application with the small ORM of core's tests and with OpenTelemetry."""
    toy = Toy()
    adapters = Adapters({"opentelemetry": asynctasq_opentelemetry.plugin, "toy": toy})
    monkeypatch.setattr(asynctasq.adapters.plugins, "_installed", adapters)
    monkeypatch.setattr(asynctasq.app, "_current", None)
    asynctasq.init(driver="memory")
    yield toy
    for hook in adapters.event_hooks():
        asynctasq.unlisten(hook)


@pytest.fixture
def named() -> Named:
    """The spans of a test by name, in the order in which they ended."""
    exported.clear()

    def named(name: str) -> list[ReadableSpan]:
        return [span for span in exported.get_finished_spans() if span.name == name]

    return named


def ids(span: ReadableSpan) -> tuple[int, int]:
    assert span.context is not None
    return span.context.trace_id, span.context.span_id


def parent(span: ReadableSpan) -> tuple[int, int]:
    assert span.parent is not None
    return span.parent.trace_id, span.parent.span_id


async def work() -> None:
    await Worker(burst=True).run()


@asynctasq.task
async def inner_span() -> None:
    with tracer.start_as_current_span("inside"):
        pass


@asynctasq.task
def inner_span_in_a_thread() -> None:
    with tracer.start_as_current_span("inside"):
        pass


@asynctasq.task(max_attempts=2, retry_delay=0)
async def fail() -> None:
    raise LookupError("secret")


@asynctasq.task
async def read(user: User) -> None: ...


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("task", [inner_span, inner_span_in_a_thread])
async def test_a_run_continues_the_trace_of_its_dispatch(named: Named, task: Any) -> None:
    with tracer.start_as_current_span("request"):
        handle = await task().dispatch()
    await work()
    (request,), (dispatch,) = named("request"), named("dispatch default")
    (run,), (inside,) = named("run default"), named("inside")
    assert [parent(s) for s in (dispatch, run, inside)] == [
        ids(s) for s in (request, dispatch, run)
    ]
    assert (dispatch.kind, run.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert dict(dispatch.attributes or {}) == {
        "messaging.system": "asynctasq",
        "messaging.operation.name": "dispatch",
        "messaging.operation.type": "create",
        "messaging.destination.name": "default",
        "messaging.message.id": handle.id,
        "asynctasq.task.name": task.name,
    }
    assert dict(run.attributes or {}) == {
        "messaging.system": "asynctasq",
        "messaging.operation.name": "run",
        "messaging.operation.type": "process",
        "messaging.destination.name": "default",
        "messaging.message.id": handle.id,
        "asynctasq.task.name": task.name,
        "asynctasq.task.attempt": 1,
    }
    assert run.status.status_code is StatusCode.UNSET


async def test_a_dispatch_that_waits_for_a_commit_belongs_where_it_was_called(
    named: Named, toy: Toy
) -> None:
    user = toy.save(User(1))
    toy.pending.append(user)
    with tracer.start_as_current_span("request"):
        await read(user).dispatch()
    with tracer.start_as_current_span("elsewhere"):
        await toy.commit_async()
    await work()
    (request,), (dispatch,), (run,) = (
        named(n) for n in ("request", "dispatch default", "run default")
    )
    assert parent(dispatch) == ids(request)
    assert parent(run) == ids(dispatch)


@pytest.mark.usefixtures("toy")
async def test_each_attempt_has_a_span_with_its_error(named: Named) -> None:
    await fail().dispatch()
    await work()
    (dispatch,), runs = named("dispatch default"), named("run default")
    assert [parent(run) for run in runs] == [ids(dispatch)] * 2
    attributes = [dict(run.attributes or {}) for run in runs]
    assert [a["asynctasq.task.attempt"] for a in attributes] == [1, 2]
    assert [a["error.type"] for a in attributes] == ["LookupError"] * 2
    for run in runs:
        assert (run.status.status_code, run.status.description) == (StatusCode.ERROR, "LookupError")
        assert [event.name for event in run.events] == ["exception"]


async def test_one_fetch_for_several_is_linked_to_all(named: Named, toy: Toy) -> None:
    await asynctasq.dispatch_many([read(toy.save(User(n))) for n in (1, 2, 3)])
    await work()
    (fetch,) = named("fetch toy_orm.User")
    assert fetch.parent is None
    linked = {(link.context.trace_id, link.context.span_id) for link in fetch.links}
    assert linked == {ids(dispatch) for dispatch in named("dispatch default")}
    assert len(linked) == 3
    assert (fetch.attributes or {})["messaging.batch.message_count"] == 3


async def test_a_fetch_for_one_is_in_its_trace(named: Named, toy: Toy) -> None:
    await read(toy.save(User(1))).dispatch()
    await work()
    (fetch,), (dispatch,) = named("fetch toy_orm.User"), named("dispatch default")
    assert parent(fetch) == ids(dispatch)


@pytest.mark.usefixtures("toy")
async def test_what_is_executed_here_is_below_the_caller(named: Named) -> None:
    with tracer.start_as_current_span("request"):
        await inner_span().execute()
    (request,), (run,), (inside,) = (
        named(n) for n in ("request", f"execute {inner_span.name}", "inside")
    )
    assert (parent(run), parent(inside)) == (ids(request), ids(run))
    assert run.kind is SpanKind.INTERNAL


@pytest.mark.usefixtures("toy")
async def test_metrics_count_and_measure(reader: InMemoryMetricReader) -> None:
    reader.get_metrics_data()
    await fail().dispatch()
    await inner_span().on_queue("mail").dispatch()
    await Worker(burst=True, queues=["default", "mail"]).run()
    points: dict[Any, Any] = {
        (metric.name, (point.attributes or {})["asynctasq.task.name"]): point
        for resource in reader.get_metrics_data().resource_metrics  # type: ignore[union-attr]
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }
    names = {name for name, _ in points}
    assert names == {
        "messaging.client.sent.messages",
        "messaging.client.consumed.messages",
        "messaging.process.duration",
        "asynctasq.wait.duration",
    }
    assert points["messaging.client.sent.messages", inner_span.name].value >= 1
    assert points["messaging.client.consumed.messages", fail.name].value >= 2
    duration = points["messaging.process.duration", fail.name]
    assert duration.attributes["asynctasq.outcome"] in ("retried", "dead")
    assert duration.attributes["error.type"] == "LookupError"


@pytest.mark.usefixtures("toy")
async def test_beyond_a_number_of_queues_the_rest_is_counted_as_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts: dict[str, dict[Any, int]] = {"dispatch": {}, "run": {}}
    monkeypatch.setattr(measuring, "_counts", counts)
    monkeypatch.setattr(measuring, "MOST", 2)
    for tenant in range(5):
        await inner_span().on_queue(f"tenant-{tenant}").dispatch()
    assert asynctasq.events.flush()
    queues = {queue: count for (_, _, _, queue), count in counts["dispatch"].items()}
    assert queues == {"tenant-0": 1, "tenant-1": 1, "(other)": 3}


# --- an instrumented ORM ------------------------------------------------------------------


@pytest_asyncio.fixture
async def shop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Any]:
    """A SQLAlchemy application whose engine is instrumented."""
    import asynctasq_sqlalchemy.adapter
    from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
    from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

    from . import shop

    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/shop.db")
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    shop.Base._asynctasq_session_factory = sessions
    async with engine.begin() as connection:
        await connection.run_sync(shop.Base.metadata.create_all)
    plugins: dict[str, object] = {
        "opentelemetry": asynctasq_opentelemetry.plugin,
        "sqlalchemy": asynctasq_sqlalchemy.adapter,
    }
    monkeypatch.setattr(asynctasq.adapters.plugins, "_installed", Adapters(plugins))
    monkeypatch.setattr(asynctasq.app, "_current", None)
    asynctasq.init(driver="memory")
    SQLAlchemyInstrumentor().instrument(
        engine=engine.sync_engine, skip_dep_check=True, tracer_provider=provider
    )
    yield sessions
    SQLAlchemyInstrumentor().uninstrument()
    await engine.dispose()
    asynctasq.unlisten(asynctasq_opentelemetry.plugin.on_event)


async def test_queries_stand_below_the_fetch_and_the_run(named: Named, shop: Any) -> None:
    from .shop import Product, sell

    async with shop() as session:
        product = Product(sold=0)
        session.add(product)
        await session.commit()
        with tracer.start_as_current_span("request"):
            await sell(product).dispatch()
    await work()
    (fetch,) = named(f"fetch {Product.__module__}.Product")
    (run,) = named("run default")
    selects = [s for s in named(f"SELECT {_database(shop)}") if s.parent is not None]
    assert ids(fetch) in {parent(s) for s in selects}
    (update,) = named(f"UPDATE {_database(shop)}")
    assert parent(update) == ids(run)


def _database(shop: Any) -> str:
    return str(shop.kw["bind"].url.database)


def test_the_provider_of_the_process_is_used(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["dispatch-default", "run-default", "1"]


_PROGRAM = """
import asyncio, asynctasq
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

asynctasq.init(driver="memory")
exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))

@asynctasq.task
async def f(): ...

async def main():
    trace.set_tracer_provider(provider)
    await f().dispatch()
    await asynctasq.Worker(burst=True).run()

asyncio.run(main())
spans = exporter.get_finished_spans()
print(*(span.name.replace(" ", "-") for span in spans), len({s.context.trace_id for s in spans}))
"""

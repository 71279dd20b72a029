"""The page of metrics of real workers, read by Prometheus's own parser, and the dashboard."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asynctasq_prometheus
import pytest
from asynctasq_prometheus import labels, page
from asynctasq_prometheus.folder import FOLDER
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.parser import text_string_to_metric_families

APP = """
import asyncio, os
import asynctasq

@asynctasq.task(max_attempts=1)
async def fail():
    raise LookupError

@asynctasq.task(queue="mail", retry_delay=0)
async def send(n):
    if asynctasq.current_message().attempt == 1 and n % 2:
        raise LookupError

@asynctasq.task
async def die():
    os._exit(1)
"""

OUTBOX = """
import asynctasq
from asynctasq_sqlalchemy import tables
from sqlalchemy import create_engine, insert
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker
from asynctasq.sending.tables import OUTBOX

class Base(DeclarativeBase):
    pass

class Row(Base):
    __tablename__ = "rows"
    id: Mapped[int] = mapped_column(primary_key=True)

tables(Base.metadata)
engine = create_engine("sqlite:///app.db")
Base._asynctasq_session_factory = sessionmaker(engine)
asynctasq.init(outbox=True)

@asynctasq.task
async def task(): ...

def create():
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        # No relay can send what is no message; it stays.
        connection.execute(insert(Base.metadata.tables[OUTBOX]).values(
            id="0" * 32, queue="none", body=b"", due=None, priority=0, policy=b"not a policy"))
"""

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def key(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return name, tuple(sorted(labels.items()))


@pytest.fixture
def port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        chosen: int = listener.getsockname()[1]
        return chosen


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def environment(plugins: str = "prometheus") -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ASYNCTASQ_")}
    return {**kept, "ASYNCTASQ_DRIVER": "sqlite", "ASYNCTASQ_PLUGINS": plugins}


@contextmanager
def working(
    folder: Path, port: int, *arguments: str, plugins: str = "prometheus"
) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "asynctasq", "worker", "app", "--metrics-port", str(port)]
    with subprocess.Popen([*command, *arguments], cwd=folder, env=environment(plugins)) as worker:
        try:
            yield worker
        finally:
            worker.send_signal(signal.SIGTERM)


def dispatch(folder: Path, code: str, plugins: str = "prometheus") -> None:
    command = [sys.executable, "-c", f"import app; {code}"]
    subprocess.run(command, cwd=folder, env=environment(plugins), check=True)


def samples(port: int) -> Samples:
    """What the page says; nothing while nobody answers."""
    found: Samples = {}
    with suppress(OSError):
        url = f"http://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            content = answer.read().decode()
        for family in text_string_to_metric_families(content):
            for sample in family.samples:
                found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def until(holds: Callable[[Samples], Any], port: int) -> Samples:
    deadline = time.monotonic() + 60
    while True:
        found = samples(port)
        if found and holds(found):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def ended(found: Samples, task: str, queue: str, outcome: str) -> float:
    labels = {"task": f"app.{task}", "queue": queue, "outcome": outcome}
    return found.get(key("asynctasq_runs_ended_total", **labels), 0)


@pytest.mark.parametrize("processes", ["1", "3"])
def test_the_page_counts_what_all_processes_did(folder: Path, port: int, processes: str) -> None:
    dispatch(folder, "app.fail().dispatch_sync()")
    dispatch(folder, "[app.send(n).dispatch_sync() for n in range(30)]")
    with working(folder, port, "--processes", processes):
        found = until(lambda f: ended(f, "send", "mail", "succeeded") >= 30, port)
        assert ended(found, "send", "mail", "succeeded") == 30
        assert ended(found, "send", "mail", "retried") == 15
        found = until(lambda f: ended(f, "fail", "default", "dead"), port)
        of_send = {"task": "app.send", "queue": "mail"}
        assert found[key("asynctasq_runs_started_total", **of_send)] == 45
        assert found[key("asynctasq_wait_seconds_count", **of_send)] == 30
        assert found[key("asynctasq_run_duration_seconds_count", **of_send)] == 45
        assert found[key("asynctasq_queue_messages", queue="default", state="dead")] == 1
        assert found[key("asynctasq_queue_messages", queue="mail", state="waiting")] == 0
        assert found[key("asynctasq_broker_up")] == 1
        until(lambda f: key("asynctasq_event_loop_lag_seconds") in f, port)


def test_numbers_of_a_process_that_died_stay(folder: Path, port: int) -> None:
    with working(folder, port, "--processes", "2"):
        dispatch(folder, "app.send(0).dispatch_sync()")
        until(lambda f: ended(f, "send", "mail", "succeeded") == 1, port)
        dispatch(folder, "app.die().on_queue('mail').dispatch_sync()")
        until(lambda f: ended(f, "die", "mail", "dead") == 1, port)
        # Not before: a process that dies may have run it and not yet counted it.
        dispatch(folder, "app.send(0).dispatch_sync()")
        found = until(lambda f: ended(f, "send", "mail", "succeeded") == 2, port)
        assert found[key("asynctasq_broker_up")] == 1


def test_a_process_killed_while_it_made_a_file_does_not_break_the_page(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    values = MmapedDict(str(tmp_path / f"counter_{os.getpid()}.db"))  # type: ignore[no-untyped-call]
    name = json.dumps(["asynctasq_runs", "asynctasq_runs_total", {}, "Runs."])
    values.write_value(name, 3.0, 0.0)  # type: ignore[no-untyped-call]
    values.close()  # type: ignore[no-untyped-call]
    (tmp_path / "counter_1.db").touch()
    assert b"asynctasq_runs_total 3.0" in page.page([])[1]


def test_what_is_written_on_queues_makes_a_bounded_number_of_series(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(labels, "_seen", {"task": set(), "queue": set()})
    told = {labels.bounded("queue", f"tenant-{n}") for n in range(2000)}
    assert len(told) == labels.MOST + 1
    assert labels.bounded("queue", "tenant-3") == "tenant-3"


def test_the_dashboard_names_only_metrics_and_labels_that_there_are(
    folder: Path, port: int
) -> None:
    path = Path(asynctasq_prometheus.__path__[0]) / "dashboard.json"
    dashboard = json.loads(path.read_text())
    queries = [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]]
    queries += [v["query"] for v in dashboard["templating"]["list"] if v["type"] == "query"]
    dispatch(folder, "app.fail().dispatch_sync(); app.send(0).on_queue('idle').dispatch_sync()")
    with working(folder, port):
        found = until(lambda f: ended(f, "fail", "default", "dead"), port)
        found = until(lambda f: key("asynctasq_event_loop_lag_seconds") in f, port)
        found = until(lambda f: key("asynctasq_next_waiting_seconds", queue="idle") in f, port)
    of_others = {
        "asynctasq_dispatched_total": {"task", "queue"},
        "asynctasq_outbox_messages": {"database"},
    }
    known = of_others | {name: {label for label, _ in pairs} for name, pairs in found}
    assert len(queries) > 10
    for query in queries:
        names = set(re.findall(r"asynctasq_\w+", query))
        assert names <= known.keys(), query
        for by in re.findall(r"by \(([^)]*)\)", query):
            wanted = {label.strip() for label in by.split(",")} - {"instance"}
            assert wanted <= set().union(*(known[name] for name in names)), query


def test_the_page_says_for_how_long_calls_wait(folder: Path, port: int) -> None:
    dispatch(folder, "app.send(0).on_queue('idle').dispatch_sync()")
    waits = key("asynctasq_next_waiting_seconds", queue="idle")
    with working(folder, port):
        assert until(lambda f: waits in f, port)[waits] >= 0


@pytest.mark.parametrize("processes", ["1", "2"])
def test_the_page_counts_what_lies_in_outboxes(folder: Path, port: int, processes: str) -> None:
    (folder / "app.py").write_text(OUTBOX)
    dispatch(folder, "app.create()", "prometheus,sqlalchemy")
    lies = key("asynctasq_outbox_messages", database="main")
    with working(folder, port, "--processes", processes, plugins="prometheus,sqlalchemy"):
        found = until(lambda f: any(name == lies[0] for name, _ in f), port)
        (amount,) = {n for (name, _), n in found.items() if name == lies[0]}
        assert amount == 1
        (age,) = {n for (m, _), n in found.items() if m == "asynctasq_outbox_oldest_seconds"}
        assert age > 0


def test_readme_describes_every_metric(folder: Path, port: int) -> None:
    readme = (Path(__file__).parents[2] / "packages/asynctasq-prometheus/README.md").read_text()
    described = set(re.findall(r"^\| `(asynctasq_\w+)`", readme, re.MULTILINE))
    with working(folder, port):
        until(lambda f: key("asynctasq_event_loop_lag_seconds") in f, port)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            content = answer.read().decode()
    families = re.findall(r"^# TYPE (asynctasq_\w+) (\w+)$", content, re.MULTILINE)
    assert {name for name, _ in families if not name.endswith("_created")} == described

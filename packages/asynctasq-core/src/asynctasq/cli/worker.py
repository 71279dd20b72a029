"""`asynctasq worker`: run tasks in this process, or in several under a supervisor."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import click

from .. import __version__
from ..config.settings import QUEUE_RULE, is_queue_name
from ..errors import BrokerError
from ..worker import signals
from . import logs
from .terminal import is_watched

if TYPE_CHECKING:
    from ..config import Config
    from ..supervision.probes import Probe
    from ..supervision.supervisor_link import Announcement, SupervisorLink
    from ..worker.worker import Worker

_NO_MODULES = (
    "no tasks: name the modules that hold them, such as `asynctasq worker app.tasks` or "
    "`asynctasq worker script.py`, or set ASYNCTASQ_IMPORTS=app.tasks"
)

_NO_TASKS = (
    "no task is registered by {}; a package does not import its submodules: name the modules that "
    "hold the tasks, such as `asynctasq worker app.tasks`"
)

#: Options that a supervisor passes on to each worker process.
_PASSED_ON = (
    *("concurrency", "lease", "grace", "children", "max_tasks_per_child"),
    *("log_level", "log_format"),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """The command line of a worker."""

    modules: tuple[str, ...]
    queues: tuple[str, ...]
    concurrency: int
    processes: int
    lease: float
    grace: float
    burst: bool
    reload: bool
    children: int | None
    max_tasks_per_child: int | None
    log_level: str
    log_format: str
    link: int | None
    health_port: int | None
    metrics_port: int | None

    def child_arguments(self) -> list[str]:
        """The command line of one worker process under a supervisor, except for `--link`."""
        arguments = [*self.modules]
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _PASSED_ON and value is not None:
                arguments += [f"--{field.name.replace('_', '-')}", str(value)]
        if self.queues:
            arguments += ["--queues", ",".join(self.queues)]
        return [*arguments, "--burst"] if self.burst else arguments


def _split(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    names = tuple(name.strip() for name in (value or "").split(",") if name.strip())
    for name in names:
        if not is_queue_name(name):
            raise click.BadParameter(f"{name!r} is not a queue name: {QUEUE_RULE}")
    return names


@click.command("worker")
@click.argument("modules", nargs=-1, metavar="MODULE...")
@click.option(
    "--queues",
    callback=_split,
    metavar="A,B",
    help="Queues in order of priority. By default `default` and those that tasks name.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="How many tasks run at once in each process.",
)
@click.option(
    "--processes",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of worker processes; those that die are replaced.",
)
@click.option(
    "--lease",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    help="Seconds after which other workers take over what a dead worker was running.",
)
@click.option(
    "--grace",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    help="Seconds that running tasks get to finish at SIGTERM, SIGINT or SIGHUP; a second signal, "
    "or SIGQUIT, skips the wait.",
)
@click.option("--burst", is_flag=True, help="End once all queues are empty and nothing is running.")
@click.option(
    "--reload", is_flag=True, help="Restart when Python files below this directory change."
)
@click.option(
    "--children",
    type=click.IntRange(1),
    help="Child processes for `process=True` tasks in each process. By default one for each "
    "processor.",
)
@click.option(
    "--max-tasks-per-child",
    type=click.IntRange(1),
    help="Replace a child process after this many tasks.",
)
@click.option(
    "--log-level",
    type=click.Choice(logs.LEVELS),
    help="`info` logs every finished task, `warning` only what went wrong. By default `warning`; "
    "`info` on a terminal.",
)
@click.option(
    "--log-format",
    type=click.Choice(logs.FORMATS),
    help="By default `text`; `terminal` on one.",
)
@click.option(
    "--health-port",
    type=click.IntRange(1, 65535),
    help="Serve /live and /ready over HTTP on this port.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65535),
    help="Serve /metrics over HTTP on this port; needs asynctasq-prometheus.",
)
@click.option("--link", type=int, hidden=True)
def command(**options: Any) -> None:
    """Run the tasks of MODULEs (module names or script paths).

    Modules may also come from ASYNCTASQ_IMPORTS.
    """
    settings = Settings(**_with_logging(options))
    logs.configure(settings.log_level, settings.log_format)
    if settings.link is not None:
        # A service manager signals every process, but only the parent should count signals; and a
        # signal during startup must not look like a failure.
        signals.handle(lambda *_: None, lambda *_: None)
    elif settings.reload or settings.processes > 1:
        raise SystemExit(_supervise(settings))
    _work(settings)


def _with_logging(options: dict[str, Any]) -> dict[str, Any]:
    """Fill in how to log if the command line does not say: log more to someone who is watching."""
    level, form = options["log_level"], options["log_format"]
    if level is None and form is None and is_watched():
        return {**options, "log_level": "info", "log_format": "terminal"}
    return {**options, "log_level": level or "warning", "log_format": form or "text"}


def _work(settings: Settings) -> None:
    from ..app import current
    from ..supervision.probes import WorkerProbe
    from ..supervision.run import run_worker
    from ..supervision.supervisor_link import SupervisorLink

    link = None if settings.link is None else SupervisorLink(settings.link)

    def ready(worker: Worker) -> None:
        if settings.log_format != "terminal":  # whose level is for tasks
            logs.configure_application(settings.log_level)
        _refuse_without_tasks(worker)
        if link is None:
            _say(_address(), worker.queues, settings)
            _open_to_others(
                settings, WorkerProbe(worker), lambda: current().config, has_processes=False
            )
            if settings.burst and is_watched():
                _show_burst(worker)
        else:
            _join_supervisor(worker, link)

    try:
        run_worker(
            *settings.modules,
            queues=settings.queues or None,
            concurrency=settings.concurrency,
            lease=settings.lease,
            grace=settings.grace,
            burst=settings.burst,
            children=settings.children,
            max_tasks_per_child=settings.max_tasks_per_child,
            on_ready=ready,
        )
    except BrokerError:
        if link is not None:
            link.refused()
        raise


def _show_burst(worker: Worker) -> None:
    from ..app import current
    from .progress import show_burst

    # As long as the worker: its loop ends with it.
    _beside.append(asyncio.create_task(show_burst(current().open_broker(), worker.queues)))


#: What runs beside the worker; the event loop itself keeps no task alive.
_beside: list[asyncio.Task[None]] = []


def _open_to_others(
    settings: Settings,
    probe: Probe,
    config: Callable[[], Config | None],
    *,
    has_processes: bool,
) -> None:
    """Serve pages about the worker's health and metrics, and tell systemd about it.

    Args:
        config: Gives the configuration once it is known.
    """
    from ..adapters.plugins import installed
    from ..supervision.pages import Page, health_pages, metrics_pages, serve
    from ..supervision.systemd import notify_systemd

    pages: dict[int, dict[str, Page]] = {}
    if settings.health_port is not None:
        pages.setdefault(settings.health_port, {}).update(health_pages(probe))
    if settings.metrics_port is not None:
        pages.setdefault(settings.metrics_port, {}).update(
            metrics_pages(installed(), config, has_processes=has_processes)
        )
    serve(pages)
    notify_systemd(probe)


def _refuse_without_tasks(worker: Worker) -> None:
    """Refuse to start a worker that would turn every message into a dead letter."""
    from ..tasks.task import registry

    if not worker.modules:
        raise click.UsageError(_NO_MODULES)
    if not registry:
        raise click.UsageError(_NO_TASKS.format(", ".join(worker.modules)))


def _say(broker: str, queues: tuple[str, ...], settings: Settings) -> None:
    many = f" in each of {settings.processes} processes" if settings.processes > 1 else ""
    click.echo(
        f"asynctasq {__version__}: broker {broker}, queues {', '.join(queues)}, "
        f"concurrency {settings.concurrency}{many}",
        err=True,
    )


def _address() -> str:
    from ..app import current
    from ..brokers.opening import open_broker

    return open_broker(current().config).describe()


def _join_supervisor(worker: Worker, link: SupervisorLink) -> None:
    from ..app import current
    from ..supervision.supervisor_link import Announcement

    link.announce(Announcement(worker.id, worker.queues, _address(), current().config))
    first = threading.Lock()

    def stop() -> None:
        # A signal and the parent's order, each in a thread of its own, are one request to stop.
        if first.acquire(blocking=False):
            worker.stop()

    def skip_grace() -> None:
        stop()
        worker.stop()

    signals.handle(lambda *_: stop(), lambda *_: skip_grace())
    link.obey(stop, skip_grace)


def _supervise(settings: Settings) -> int:
    from ..supervision.probes import FamilyProbe
    from ..supervision.supervisor import Supervisor, worker_command

    def ready(first: Announcement) -> None:
        _say(first.broker, first.queues, settings)

    supervisor = Supervisor(
        worker_command(settings.child_arguments()),
        settings.processes,
        burst=settings.burst,
        grace_seconds=settings.grace,
        on_ready=ready,
        changes=_changes() if settings.reload else None,
    )
    processes, lease = settings.processes, settings.lease
    probe = FamilyProbe(lambda: supervisor.announcements, processes, lease)

    def config() -> Config | None:
        return next((a.config for a in supervisor.announcements), None)

    _open_to_others(settings, probe, config, has_processes=True)
    return asyncio.run(supervisor.run())


def _changes() -> AsyncIterable[object]:
    """Changes of Python files below the working directory."""
    try:
        from watchfiles import PythonFilter, awatch
    except ImportError as e:
        raise click.UsageError(
            "--reload needs watchfiles: pip install 'asynctasq-core[reload]'"
        ) from e

    return awatch(".", watch_filter=PythonFilter())

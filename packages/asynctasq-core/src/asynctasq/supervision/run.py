"""`run_worker`: a worker as a process's main program, with signals and the fastest event loop."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from importlib.util import find_spec
from types import FrameType
from typing import Any

from ..app import current
from ..errors import BrokerError
from ..events import flush
from ..events.listening import LAST_SECONDS
from ..loading import load_application
from ..tasks.task import check_annotations, registry
from ..worker import signals
from ..worker.slots import CANCEL_SECONDS
from ..worker.threads import ThreadTracker
from ..worker.worker import Worker
from . import garbage
from .watchdog import RELEASE_SECONDS, Watchdog

logger = logging.getLogger(__name__)


def run_worker(
    *modules: str,
    queues: Sequence[str] | None = None,
    concurrency: int = 20,
    lease: float = 30.0,
    grace: float = 30.0,
    burst: bool = False,
    children: int | None = None,
    max_tasks_per_child: int | None = None,
    on_ready: Callable[[Worker], None] | None = None,
) -> None:
    """Import modules and run a worker until SIGTERM or SIGINT, or in burst mode until all is done.

    SIGHUP acts like SIGTERM. A second signal skips the grace time, and SIGQUIT skips it at once.
    uvloop is used if it is installed. Unless `gc_tuning` is off, garbage collections run less often
    and skip what the modules have loaded. If a stopped task ignores its cancellation, goes on in a
    thread or blocks the event loop, the process ends here with code 0 and without exit handlers;
    the last thing it does is give back what it was running.

    Args:
        modules: Module names or script paths whose tasks to run, in addition to those in `imports`.
        queues: As for `Worker`, like the arguments after it.
        on_ready: Called with the worker once the modules are imported, before the broker is
            connected. From then on, any thread may call the worker's `stop`.

    Raises:
        ConfigurationError: A module does not exist, or the configuration is wrong.
        BrokerError: The broker refused at the start and would refuse again; if it is merely
            unavailable, the worker waits for it.
    """
    names = load_application(modules)
    check_annotations(registry.values())  # before telling a supervisor that the worker is ready

    async def main() -> None:
        worker = _WatchedWorker(
            queues=queues,
            concurrency=concurrency,
            lease=lease,
            grace=grace,
            burst=burst,
            modules=names,
            children=children,
            max_tasks_per_child=max_tasks_per_child,
        )
        await _work(worker, on_ready)

    collector = garbage.fitted() if current().config.gc_tuning else nullcontext()
    loop = asyncio.Runner(loop_factory=_loop_factory())
    with collector, signals.restored(), loop as runner:
        runner.run(main())


class _WatchedWorker(Worker):
    """A worker that ends when told to, even if a task blocks its event loop."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Set before `run`, so that other threads can call `stop` from the start.
        self._loop = asyncio.get_running_loop()
        self._watchdog = Watchdog(self._loop, self, _leave)
        self.was_stopped = False

    def stop(self) -> None:
        self.was_stopped = True
        super().stop()
        self._watchdog.stopped()


async def _work(worker: _WatchedWorker, on_ready: Callable[[Worker], None] | None) -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        worker.stop()

    def stop_now(number: int, frame: FrameType | None) -> None:
        worker.stop()
        worker.stop()

    # Not the loop's own handlers, which would not run while a task blocks the loop.
    signals.handle(stop, stop_now)
    if on_ready is not None:
        on_ready(worker)
    await worker.run()
    threads = ThreadTracker.of(asyncio.get_running_loop())
    # Work that finished tasks left in threads belongs to no message, but may still matter.
    seconds = CANCEL_SECONDS if worker.was_stopped else worker.grace
    if worker.left_running or not await threads.until_idle(seconds):
        await _abandon(worker)


async def _abandon(worker: Worker) -> None:
    """End the process despite what still runs in it, after giving that back.

    The loop and the interpreter would wait for it, perhaps for ever.
    """
    logger.warning("tasks that ignore their cancellation end with the process")
    _flush()
    if worker.left_running:
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                await worker.give_back()
        except (BrokerError, TimeoutError) as e:
            logger.warning("leases of an abandoned run run out by themselves", extra={"reason": e})
    os._exit(0)


def _leave() -> None:
    _flush()
    os._exit(0)


def _flush() -> None:
    """Flush what would be lost because the process ends without its exit handlers."""
    flush(LAST_SECONDS)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed
            stream.flush()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if find_spec("uvloop") is None:
        return None
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory

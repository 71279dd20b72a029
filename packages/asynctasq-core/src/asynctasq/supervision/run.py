"""`run_worker`: a worker as the main thing of a process, with signals and the fastest loop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from types import FrameType
from typing import Any

from ..loading import load_application
from ..tasks.task import check_annotations, registry
from ..worker.worker import Worker
from .watchdog import Watchdog

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_worker(
    *modules: str,
    queues: Sequence[str] | None = None,
    concurrency: int = 20,
    lease: float = 30.0,
    grace: float = 30.0,
    burst: bool = False,
    on_ready: Callable[[Worker], None] | None = None,
) -> None:
    """Import modules and run a worker until SIGTERM or SIGINT, or in burst mode until all is done.

    A second signal skips the grace time. uvloop is used where it is installed. If a task ignores
    that it is stopped, or blocks the event loop then, the process ends here, with code 0 and
    without exit handlers.

    Args:
        modules: Module names or script paths whose tasks are run, besides those in `imports`.
        queues: As for `Worker`, like the arguments after it.
        on_ready: Called once the modules are imported, before the broker is connected, with the
            worker, whose `stop` may then be called in any thread.

    Raises:
        ConfigurationError: There is no such module, or the configuration is wrong.
        BrokerError: The broker refused at the start, and will again; one that is only
            unavailable is waited for.
    """
    names = load_application(modules)
    check_annotations(registry.values())  # before a supervisor hears that the worker is ready

    async def main() -> None:
        worker = _WatchedWorker(
            queues=queues,
            concurrency=concurrency,
            lease=lease,
            grace=grace,
            burst=burst,
            modules=names,
        )
        await _work(worker, on_ready)

    former = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(main())
    finally:
        for number, handler in former.items():
            if handler is not None:  # set by something other than Python, and out of its reach
                signal.signal(number, handler)


class _WatchedWorker(Worker):
    """A worker that ends, once it is told to, although a task blocks its event loop."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Known before `run`, so that other threads may call `stop` from the first moment on.
        self._loop = asyncio.get_running_loop()
        self._watchdog = Watchdog(self._loop, self, _leave)

    def stop(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: it has ended by itself
            super().stop()
        self._watchdog.stopped()


async def _work(worker: Worker, on_ready: Callable[[Worker], None] | None) -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        worker.stop()

    # Not the loop's own handlers: those would not run while a task blocks it.
    for number in _SIGNALS:
        signal.signal(number, stop)
    if on_ready is not None:
        on_ready(worker)
    await worker.run()
    if worker.left_running:
        _leave()


def _leave() -> None:
    """End the process although threads or coroutines of tasks go on.

    Both the loop and the interpreter would wait for them, for ever if need be.
    """
    logger.warning("tasks that ignore their cancellation end with the process")
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed
            stream.flush()
    os._exit(0)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if find_spec("uvloop") is None:
        return None
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory

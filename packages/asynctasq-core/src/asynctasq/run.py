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

from .app import current
from .imports import load_modules
from .watchdog import Watchdog
from .worker import Worker

logger = logging.getLogger(__name__)


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
        on_ready: Called once the modules are imported, before the broker is connected.

    Raises:
        ConfigurationError: There is no such module, or the configuration is wrong.
    """
    names = load_modules([*modules, *current().config.imports])
    # Imported modules may have called `init`, so the configuration is looked at anew.
    load_modules(m for m in [*current().config.imports] if m not in names)

    async def main() -> None:
        worker = Worker(
            queues=queues,
            concurrency=concurrency,
            lease=lease,
            grace=grace,
            burst=burst,
            modules=names,
        )
        watchdog = Watchdog(asyncio.get_running_loop(), worker, _leave)

        def stop(number: int, frame: FrameType | None) -> None:
            worker.stop()
            watchdog.stopped()

        # Not the loop's own handlers: those would not run while a task blocks it.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        if on_ready is not None:
            on_ready(worker)
        await worker.run()
        if worker.left_running:
            _leave()

    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(main())
    finally:
        for number, handler in former.items():
            if handler is not None:  # set by something other than Python, and out of its reach
                signal.signal(number, handler)


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

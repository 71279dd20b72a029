"""`run_worker`: a worker as the main thing of a process, with signals and the fastest loop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.util import find_spec

from .app import current
from .imports import load_modules
from .worker import Worker


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

    A second signal skips the grace time. uvloop is used where it is installed.

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
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError):  # Windows
                loop.add_signal_handler(number, worker.stop)
        if on_ready is not None:
            on_ready(worker)
        await worker.run()

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(main())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if find_spec("uvloop") is None:
        return None
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory

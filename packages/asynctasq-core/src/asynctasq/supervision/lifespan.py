"""`lifespan`: an application's connections, and optionally its worker, inside a web server.

Owns the rule that a server starts and stops whether or not the broker is reachable; a dispatch
meanwhile fails where it is made.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from ..app import current
from ..brokers import Broker
from ..errors import BrokerUnavailable
from ..events import flush
from ..events.listening import LAST_SECONDS
from ..worker.worker import Worker

logger = logging.getLogger(__name__)

#: How long the server's start waits for the broker's first answer.
_OPENING_SECONDS = 5.0


@asynccontextmanager
async def lifespan(
    app: object = None,
    /,
    *,
    worker: bool = False,
    queues: Sequence[str] | None = None,
    concurrency: int = 20,
    grace: float = 5.0,
) -> AsyncIterator[None]:
    """Open the application's connections, and close them at the end; for ASGI servers.

    Use `FastAPI(lifespan=asynctasq.lifespan)`, or `async with asynctasq.lifespan():` inside your
    own lifespan. The broker is connected at the start, so that the first request does not wait for
    it; if the broker is unreachable, a warning is logged and the server starts anyway. At the end,
    calls still on their way to the broker are delivered to it.

    Args:
        app: The application that the server passes; ignored.
        worker: Also run a worker on the server's event loop. Meant for development, where one
            process is easier to restart and debug than two. It runs the tasks that the process has
            imported; whatever blocks the event loop blocks the server.
        queues: As for `Worker`, like the arguments after it; for the worker only.

    Raises:
        ConfigurationError: The configuration, or what a task declares, cannot be honoured.
        BrokerError: The broker refuses to start the worker, and would refuse again.
    """
    application = current()
    try:
        await _connect(application.open_broker())
        if worker:
            async with _working(Worker(queues=queues, concurrency=concurrency, grace=grace)):
                yield
        else:
            yield
    finally:
        await application.connections.close()
        await asyncio.to_thread(flush, LAST_SECONDS)


async def _connect(broker: Broker) -> None:
    try:
        async with asyncio.timeout(_OPENING_SECONDS):
            await broker.state("default", "-")  # the cheapest request there is
    except (BrokerUnavailable, TimeoutError) as e:
        logger.warning(
            "the broker is away: %s", e or "no answer", extra={"broker": broker.describe()}
        )


@asynccontextmanager
async def _working(worker: Worker) -> AsyncIterator[None]:
    """Run a worker meanwhile; its failure ends only itself and is raised at the end."""
    running = asyncio.create_task(worker.run())
    running.add_done_callback(_log_failure)
    try:
        await asyncio.sleep(0)  # let it start, so that a refusal is raised here
        if running.done():
            running.result()
        yield
    finally:
        worker.stop()
        with suppress(asyncio.CancelledError):
            await asyncio.wait({running})
    running.result()


def _log_failure(running: asyncio.Task[None]) -> None:
    if not running.cancelled() and (error := running.exception()) is not None:
        logger.error("the worker inside of the server failed", exc_info=error)

"""Ends a stopped worker even if one of its tasks blocks the event loop.

Such a task can be neither finished nor cancelled, and of the worker nothing but its threads still
runs. Owns the rule that the worker ends soon after its grace time anyway, and that others get its
messages at once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable

from ..app import current
from ..brokers.opening import open_broker
from ..errors import BrokerError
from ..worker.loop_watch import ask
from ..worker.worker import Worker

logger = logging.getLogger(__name__)

#: Once the grace time is over, a loop that does not answer for this long counts as blocked.
BLOCKED_SECONDS = 3.0

#: How long the broker may take to release the messages; after that, their leases must expire.
RELEASE_SECONDS = 5.0


class Watchdog:
    """Watches a worker's event loop from the moment the worker is told to stop.

    Args:
        leave: Ends the process without waiting for anything.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, worker: Worker, leave: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._worker = worker
        self._leave = leave
        self._first, self._hurry = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="asynctasq-watchdog", daemon=True)

    def stopped(self) -> None:
        """Note that the worker was told to stop; a second call means not to wait.

        May be called in any thread and from signal handlers.
        """
        # One atomic step: a signal or another thread may come between two.
        if self._first.acquire(blocking=False):
            self._thread.start()
        else:
            self._hurry.set()

    def _watch(self) -> None:
        self._hurry.wait(self._worker.grace)
        while (answered := ask(self._loop)) is not None and answered.wait(BLOCKED_SECONDS):
            time.sleep(BLOCKED_SECONDS / 3)
        if answered is None:  # the loop is closed: the worker has ended by itself
            return
        logger.error("a task blocks the event loop of a worker that has to end")
        try:
            self._worker.kill_processes()
            asyncio.run(_release(self._worker))
        except Exception:
            logger.exception("the leases of a blocked worker could not be given back")
        finally:
            self._leave()


async def _release(worker: Worker) -> None:
    broker = open_broker(current().config)
    try:
        async with asyncio.timeout(RELEASE_SECONDS):
            await broker.release_worker(worker.id, worker.queues)
    except (BrokerError, TimeoutError) as e:
        logger.warning("leases of a blocked worker run out by themselves", extra={"reason": e})
    finally:
        await broker.close()

"""Ending a stopped worker although one of its tasks blocks the event loop.

What blocks the loop can be neither finished nor cancelled, and nothing else of the worker runs any
more but the threads. Owns the rule that such a worker ends soon after its grace time all the same,
and that others get its messages at once.
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

#: A loop that does not answer for so long, once the grace time is over, is blocked.
BLOCKED_SECONDS = 3.0

#: How long the broker may take to give the messages to others; their leases run out otherwise.
RELEASE_SECONDS = 5.0


class Watchdog:
    """Watches the event loop of a worker from the moment on when it is told to stop.

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
        """Note that the worker was told to stop; a second call means without waiting.

        May be called in any thread and from signal handlers.
        """
        # One step, as a signal may come between two, and another thread too.
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

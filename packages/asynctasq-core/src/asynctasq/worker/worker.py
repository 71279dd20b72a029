"""The worker: takes messages, runs them, hands on what became of them.

Owns the order of starting and stopping. Taking, running and settling go on at the same time: while
tasks run, the outcomes of those before them are settled in one round trip, and free slots are
filled in another.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from time import time
from typing import TYPE_CHECKING, Any

from ..app import current
from ..brokers import Backoff, Consumer, ConsumerOptions, Delivery, WorkerInfo
from ..errors import BrokerUnavailable
from ..services.offered import services_of
from ..services.running import run_services
from ..tasks.task import check_annotations, registry
from ..wire.message import new_id
from .atomic import check_atomic_tasks
from .execution import Runner, scoped_adapters
from .jobs import declared_queues
from .leases import LeaseKeeper
from .outcomes import instead_of_refused
from .poison_isolation import Suspects
from .prefetching import Ahead
from .settling import Settler
from .slots import Slots
from .taking import Taker, wait_for_broker

if TYPE_CHECKING:
    from .process_tasks import ProcessTasks

logger = logging.getLogger(__name__)

#: How long the last settling may take at shutdown.
LAST_SETTLE_SECONDS = 5.0


class Worker:
    """One worker process's loop.

    Args:
        queues: In order of priority; by default `default` and those that tasks or adapters name.
        concurrency: How many tasks run at once.
        lease: Seconds after which others take over what a dead worker held.
        grace: Seconds that running tasks get to finish after `stop`.
        burst: End once the queues hold nothing waiting, delayed or running.
        modules: What child processes for `process=True` tasks import.

    Attributes:
        left_running: Whether tasks ignored that they were stopped; they still run after `run`.
    """

    def __init__(
        self,
        *,
        queues: Sequence[str] | None = None,
        concurrency: int = 20,
        lease: float = 30.0,
        grace: float = 30.0,
        burst: bool = False,
        modules: Sequence[str] = (),
    ) -> None:
        if concurrency < 1 or lease <= 0 or grace < 0:
            raise ValueError("concurrency must be at least 1, lease above 0, grace 0 or more")
        if isinstance(queues, str):
            queues = (queues,)
        self._app = current()
        self.queues = tuple(queues or declared_queues(self._app))
        self.concurrency = concurrency
        self.lease = lease
        self.grace = grace
        self.burst = burst
        self.modules = tuple(modules)
        self.info = _worker_info(self.queues, concurrency)
        self._stop, self._hurry = asyncio.Event(), asyncio.Event()
        self.left_running = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slots: Slots | None = None
        self._consumer: Consumer
        self._settler: Settler
        self._taker: Taker
        self._ahead: Ahead

    @property
    def id(self) -> str:
        """Unique per process start."""
        return self.info.id

    @property
    def running(self) -> int:
        """How many tasks are running."""
        return len(self._slots) if self._slots is not None else 0

    def stop(self) -> None:
        """Take nothing more and end once running tasks have; called again, do not wait for them.

        May be called in any thread and from signal handlers.
        """
        if self._loop is None:
            self._stop_here()
        else:
            self._loop.call_soon_threadsafe(self._stop_here)

    def _stop_here(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def run(self) -> None:
        """Work until `stop`, or in burst mode until nothing is left.

        A broker that cannot be reached, at the start or later, is waited for.

        Raises:
            ConfigurationError: An annotation of a task cannot be told, or no adapter can run an
                atomic task.
            BrokerError: The broker refuses at the start, and would again. Later refusals are waited
                for too, as somebody may be changing a password.
        """
        check_annotations(registry.values())
        check_atomic_tasks(self._app, registry.values())
        self._loop = asyncio.get_running_loop()
        options = ConsumerOptions(self.info, self.queues, self.lease)
        self._consumer = self._app.open_broker().consumer(options)
        if not await self._connect():
            return
        self._settler = Settler(self._consumer, partial(instead_of_refused, self._app))
        async with AsyncExitStack() as stack:
            stack.push_async_callback(_call_adapters, self, "worker_stopped")
            threads = ThreadPoolExecutor(self.concurrency, "asynctasq")
            self._slots = slots = self._furnish(threads)
            stack.push_async_callback(slots.close)
            stack.push_async_callback(self._consumer.stop)
            stack.callback(threads.shutdown, wait=False, cancel_futures=True)
            await _call_adapters(self, "worker_started")
            keeper = self._lease_keeper(slots)
            keeper.start()
            stack.push_async_callback(asyncio.to_thread, keeper.stop)
            services = asyncio.create_task(
                run_services(self._app.open_broker(), self.id, services_of(self._app))
            )
            stack.push_async_callback(_end, services)
            settling = asyncio.create_task(self._settler.run())
            stack.callback(settling.cancel)
            await self._take_until_stopped(settling)
            await self._wind_down(slots)

    # --- starting -----------------------------------------------------------------------

    async def _connect(self) -> bool:
        """Start the consumer; `False` if the worker was stopped while it waited for the broker."""
        backoff = Backoff()
        while not self._stop.is_set():
            try:
                await self._consumer.start()
            except BrokerUnavailable as e:
                await wait_for_broker("start", e, backoff)
            else:
                return True
        return False

    def _furnish(self, threads: ThreadPoolExecutor) -> Slots:
        """Make the parts that take and run."""
        app, ahead = self._app, Ahead(self.concurrency)
        suspects = Suspects(app.config.max_deliveries)
        runner = Runner(app, threads, scoped_adapters(app))
        slots = Slots(
            app, self._settler, runner, self._new_processes, ahead, suspects, self._stop.is_set
        )
        self._ahead = ahead
        self._taker = Taker(
            self._consumer,
            self._settler,
            slots,
            ahead,
            suspects,
            self.concurrency,
            burst=self.burst,
        )
        return slots

    def _new_processes(self) -> ProcessTasks:
        from .process_tasks import ProcessTasks

        return ProcessTasks(self._app, self.modules, self.concurrency)

    def _lease_keeper(self, slots: Slots) -> LeaseKeeper:
        loop = asyncio.get_running_loop()
        settler = self._settler

        def note(lost: list[Delivery]) -> None:
            # What has finished meanwhile was settled before the renewal: not lost, but done.
            settler.note_lost(delivery for delivery in lost if delivery in slots)

        return LeaseKeeper(
            self._consumer,
            self.lease,
            settler.leased,
            lambda lost: loop.call_soon_threadsafe(note, lost),
        )

    async def _take_until_stopped(self, settling: asyncio.Task[None]) -> None:
        taking = asyncio.create_task(self._taker.run())
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({taking, stopped, settling}, return_when=asyncio.FIRST_COMPLETED)
            for task in (taking, settling):
                if task.done():
                    task.result()
        finally:
            stopped.cancel()
            taking.cancel()
            await asyncio.wait({taking})

    # --- stopping -----------------------------------------------------------------------

    async def _wind_down(self, slots: Slots) -> None:
        self._taker.give_back(self._ahead.clear())
        try:
            async with asyncio.timeout(self.grace):
                await slots.until_empty(self._hurry)
        except TimeoutError:
            logger.warning("grace time is over", extra={"running": len(slots)})
        self.left_running = await slots.cancel()
        try:
            async with asyncio.timeout(LAST_SETTLE_SECONDS):
                await self._settler.drain()
        except TimeoutError:
            logger.warning("stopped before the broker took the last outcomes")


def _worker_info(queues: tuple[str, ...], concurrency: int) -> WorkerInfo:
    host, pid = socket.gethostname(), os.getpid()
    worker_id = f"{host}-{pid}-{new_id()[-8:]}"
    return WorkerInfo(worker_id, host, pid, queues, concurrency, started_at=time())


async def _call_adapters(worker: Worker, hook: str) -> None:
    for adapter in current().adapters.with_hook(hook):
        try:
            answer: Any = getattr(adapter, hook)(worker)
            if inspect.isawaitable(answer):
                await answer
        except Exception:
            logger.exception("%s of an adapter failed", hook, extra={"adapter": adapter.name})


async def _end(services: asyncio.Task[None]) -> None:
    """Let other workers take over what this one did for all."""
    services.cancel()
    await asyncio.wait({services})

"""Tells the outside world (HTTP, systemd) whether a worker is alive and ready.

Owns what these words mean. A worker is alive while its event loop answers and its leases are
renewed; otherwise it should be killed, since nothing it holds makes progress. It is ready while it
takes messages. Probes run in separate threads, since the event loop may be what does not answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from math import inf
from time import monotonic
from typing import Protocol

from ..brokers import WorkerInfo
from ..brokers.opening import open_broker
from ..config import Config
from ..errors import BrokerError
from ..worker.worker import Worker
from .supervisor_link import Announcement

#: A worker counts as dead if its renewal is later than this, or than the lease if that is longer.
LATE_SECONDS = 10.0

#: How long the broker may take to list the workers.
_ANSWER_SECONDS = 5.0

BLOCKED = "a task blocks the event loop"


class Probe(Protocol):
    """The state of a worker, or of several under one supervisor."""

    def not_live(self) -> str:
        """Why it should be killed; empty while it is alive."""

    def not_ready(self) -> str:
        """Why it takes no messages; empty while it does."""


class WorkerProbe:
    """Probes this process's only worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._late_seconds = max(worker.lease, LATE_SECONDS)

    def not_live(self) -> str:
        """As `Probe.not_live`; it counts as alive before its start and while the broker is away."""
        if self._worker.info.is_blocked:
            return BLOCKED
        renewed_at = self._worker.renewed_at
        if renewed_at is not None and (late := monotonic() - renewed_at) > self._late_seconds:
            return f"leases were not renewed for {late:.0f} s"
        return ""

    def not_ready(self) -> str:
        """As `Probe.not_ready`."""
        if self._worker.renewed_at is None:
            return "it has not started"
        if self._worker.is_stopping:
            return "it is stopping"
        return self.not_live()


class FamilyProbe:
    """Probes a supervisor's workers by asking the broker, which knows which of them are blocked.

    Args:
        announcements: Gives the announcements of the processes that are running now.
        processes: How many processes there should be.
        lease_seconds: How long the broker considers a silent worker alive.
    """

    def __init__(
        self,
        announcements: Callable[[], Sequence[Announcement]],
        processes: int,
        lease_seconds: float,
    ) -> None:
        self._announcements = announcements
        self._processes = processes
        self._late_seconds = max(lease_seconds, LATE_SECONDS)
        self._workers: dict[str, WorkerInfo] = {}
        self._seen_at: dict[str, float] = {}

    def not_live(self) -> str:
        """As `Probe.not_live`; a worker that the broker has not seen yet may be waiting for it."""
        self._look()
        running = {announcement.worker_id for announcement in self._announcements()}
        if any(worker.is_blocked for name, worker in self._workers.items() if name in running):
            return BLOCKED
        seen = [at for name, at in self._seen_at.items() if name in running]
        late = monotonic() - min(seen, default=inf)
        return f"leases were not renewed for {late:.0f} s" if late > self._late_seconds else ""

    def not_ready(self) -> str:
        """As `Probe.not_ready`."""
        reason = self.not_live()
        started = sum(a.worker_id in self._workers for a in self._announcements())
        if not reason and started < self._processes:
            return f"{started} of {self._processes} processes have started"
        return reason

    def _look(self) -> None:
        running = self._announcements()
        if not running:
            return
        try:
            workers = asyncio.run(workers_of(running[0].config))
        except (BrokerError, TimeoutError):
            return
        self._workers = {worker.id: worker for worker in workers}
        self._seen_at |= dict.fromkeys(self._workers, monotonic())


async def workers_of(config: Config) -> list[WorkerInfo]:
    """The workers that the broker knows.

    Raises:
        BrokerError: It cannot be asked.
        TimeoutError: It does not answer.
    """
    broker = open_broker(config)
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            return await broker.workers()
    finally:
        await broker.close()

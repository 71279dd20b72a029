"""Running services, each in one worker at a time.

Owns the rule that a service is right when two workers run it at once, only wasteful: a worker that
was stopped for a while goes on believing that it leads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from ..brokers import Broker, Coordinating
from ..errors import BrokerError

logger = logging.getLogger(__name__)

#: A leader that gives no sign of life for so many turns, and for at least so many seconds, is
#: followed by another.
_TURNS, _SHORTEST_LEASE_SECONDS = 3, 5.0


class Service(Protocol):
    """Something to be done again and again by one worker.

    Attributes:
        name: Of its lease.
        interval_seconds: Between two turns.
    """

    name: str
    interval_seconds: float

    async def turn(self) -> None:
        """Do what there is to do now. Errors are logged; the next turn comes all the same."""


@runtime_checkable
class Conditional(Protocol):
    """A service that most applications have no need of: a worker asks before it asks to lead."""

    async def is_needed(self) -> bool:
        """Whether there is anything to do for it."""


async def run_services(broker: Broker, holder: str, services: Sequence[Service]) -> None:
    """Run services for as long as this worker lives, those of them that it leads.

    Args:
        holder: The worker's id.
    """
    async with asyncio.TaskGroup() as group:
        for service in services:
            group.create_task(_run(broker, holder, service))


async def _run(broker: Broker, holder: str, service: Service) -> None:
    try:
        while True:
            await _turn(broker, holder, service)
            await asyncio.sleep(service.interval_seconds)
    finally:
        if isinstance(broker, Coordinating):
            await _resign(broker, holder, service)


async def _turn(broker: Broker, holder: str, service: Service) -> None:
    try:
        if isinstance(service, Conditional) and not await service.is_needed():
            return
        if await _leads(broker, holder, service):
            await service.turn()
    except BrokerError as e:
        logger.debug("a service waits for the broker: %s", e, extra={"service": service.name})
    except Exception:
        logger.exception("a service failed", extra={"service": service.name})


async def _leads(broker: Broker, holder: str, service: Service) -> bool:
    """Whether this worker runs the service now; all do with a broker that grants no leases."""
    if not isinstance(broker, Coordinating):
        return True
    seconds = max(_SHORTEST_LEASE_SECONDS, _TURNS * service.interval_seconds)
    return await broker.lead(service.name, holder, seconds)


async def _resign(broker: Coordinating, holder: str, service: Service) -> None:
    """Let another worker take over at once; otherwise the lease runs out by itself."""
    try:
        async with asyncio.timeout(1.0):
            await broker.resign(service.name, holder)
    except (BrokerError, TimeoutError):
        return

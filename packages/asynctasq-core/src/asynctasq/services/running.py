"""Runs services, each in one worker at a time.

Owns the rule that a service must stay correct, if wasteful, when two workers run it at once: a
worker that was suspended for a while still believes that it leads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from ..adapters.shielding import given_time
from ..brokers import Broker, Coordinating
from ..errors import BrokerError

logger = logging.getLogger(__name__)

#: Another worker takes over from a leader that is silent for this many turns, and for at least this
#: many seconds.
_TURNS, _SHORTEST_LEASE_SECONDS = 3, 5.0

#: How long a worker that stops waits for a turn that has begun.
_LAST_TURN_SECONDS = 1.0


class Service(Protocol):
    """A recurring job for one worker.

    Attributes:
        name: The name of its lease.
        interval_seconds: Seconds between two turns.
    """

    name: str
    interval_seconds: float

    async def turn(self) -> None:
        """Do what there is to do now. Errors are logged, and the next turn comes anyway."""


@runtime_checkable
class Conditional(Protocol):
    """A service that most applications do not need; a worker checks before it tries to lead."""

    async def is_needed(self) -> bool:
        """Whether the service has anything to do."""


async def run_services(broker: Broker, holder: str, services: Sequence[Service]) -> None:
    """Run those services that this worker leads, for as long as it lives.

    Args:
        holder: The worker's id.
    """
    async with asyncio.TaskGroup() as group:
        for service in services:
            group.create_task(_run(broker, holder, service))


async def _run(broker: Broker, holder: str, service: Service) -> None:
    try:
        while True:
            await given_time(_turn(broker, holder, service), _LAST_TURN_SECONDS)
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
    """Whether this worker runs the service now; if the broker grants no leases, all workers do."""
    if not isinstance(broker, Coordinating):
        return True
    seconds = max(_SHORTEST_LEASE_SECONDS, _TURNS * service.interval_seconds)
    return await broker.lead(service.name, holder, seconds)


async def _resign(broker: Coordinating, holder: str, service: Service) -> None:
    """Let another worker take over at once; if this fails, the lease expires by itself."""
    try:
        async with asyncio.timeout(1.0):
            await broker.resign(service.name, holder)
    except (BrokerError, TimeoutError):
        return

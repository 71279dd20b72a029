"""Ends runs whose calls have been cancelled.

Owns the rule that only runs that last a while cost a look at the broker.
"""

from __future__ import annotations

import asyncio
import logging

from ..brokers import Broker, Remembering
from ..errors import BrokerError
from ..sending.ending import CANCELLED
from .jobs import Key
from .slots import Slots

logger = logging.getLogger(__name__)

#: Time between two looks; runs that begin and end in between are not checked.
LOOK_SECONDS = 0.3


async def end_cancelled(broker: Broker, slots: Slots) -> None:
    """Check repeatedly whether running calls are cancelled, and end those that are."""
    if not isinstance(broker, Remembering):
        return
    before: frozenset[Key] = frozenset()
    told: set[Key] = set()
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        running = slots.keys()
        try:
            for queue, message_id in told - running:
                await broker.set_value(queue, CANCELLED, message_id, None)
                told.discard((queue, message_id))
            for key in await _cancelled(broker, before & running):
                slots.cancel_call(key)
                told.add(key)
        except BrokerError as e:
            logger.debug("could not look for cancelled calls: %s", e)
        before = running


async def _cancelled(broker: Remembering, lasting: frozenset[Key]) -> list[Key]:
    """The cancelled ones among these calls."""
    names = {queue: await broker.values(queue, CANCELLED) for queue in {q for q, _ in lasting}}
    return [(queue, id_) for queue, id_ in lasting if id_ in names[queue]]

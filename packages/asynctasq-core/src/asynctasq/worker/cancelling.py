"""Ending runs whose calls have been cancelled.

Owns the rule that only runs which last cost a look at the broker.
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

#: Between two looks; what begins and ends between them is not looked for.
LOOK_SECONDS = 0.3


async def end_cancelled(broker: Broker, slots: Slots) -> None:
    """Look again and again whether what runs is cancelled, and end it."""
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
    """Those of these calls that are cancelled."""
    names = {queue: await broker.values(queue, CANCELLED) for queue in {q for q, _ in lasting}}
    return [(queue, id_) for queue, id_ in lasting if id_ in names[queue]]

"""Tells which of a worker's taken messages are held back by a pause."""

from __future__ import annotations

from functools import lru_cache

from ..adapters.plugins import Adapters
from ..brokers import Delivery
from ..config.settings import Config
from ..errors import MessageError
from ..policies.pauses import Pause
from ..wire.message import Message


def holding(delivery: Delivery, config: Config, adapters: Adapters) -> str | None:
    """The name of the pause that holds a delivery back; `None` if none does.

    No pause holds back an unreadable message, so that it becomes a dead letter as usual.
    """
    try:
        message = Message.decode(delivery.body, config.signing_key, config.max_payload_bytes)
    except MessageError:
        return None
    for name, value in (delivery.pauses or {}).items():
        pause = _decoded(delivery.queue, value)
        if pause is not None and pause.is_for(message, adapters):
            return name
    return None


_decoded = lru_cache(maxsize=256)(Pause.decode)

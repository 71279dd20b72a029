"""Which of the messages that a worker has taken are held back by a pause of their task."""

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

    What cannot be read is held back by none, to end among the dead letters as ever.
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

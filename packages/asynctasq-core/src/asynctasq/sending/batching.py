"""Round trips shared by what is dispatched at the same time on one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..brokers import Broker, Outgoing
from ..errors import BrokerError, BrokerUnavailable

_Put = tuple[Sequence[Outgoing], asyncio.Future[None]]


@dataclass(slots=True)
class Batcher:
    """Collects what is put while a round trip is under way, and sends it in the next one.

    Belongs to one event loop. What is put in one iteration of the loop goes out together.
    """

    broker: Broker
    _waiting: list[_Put] = field(default_factory=list)
    _sending: asyncio.Task[None] | None = None

    def put(self, messages: Sequence[Outgoing]) -> asyncio.Future[None]:
        """Hand over messages; the future is done when the broker has them."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((messages, future))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send_all())
        return future

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                await self._send(batch)
        finally:
            self._sending = None

    async def _send(self, batch: list[_Put]) -> None:
        error: BaseException | None = None
        try:
            await self.broker.put([message for messages, _ in batch for message in messages])
        except BaseException as e:  # noqa: BLE001 - whoever dispatched gets it
            error = e
        if len(batch) > 1 and isinstance(error, BrokerError) and not _concerns_all(error):
            for part in batch:  # one is to blame; what the broker has is left as it is
                await self._send([part])
            return
        for _, future in batch:
            if future.done():  # whoever waited was cancelled
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
        if isinstance(error, asyncio.CancelledError):
            raise error


def _concerns_all(error: BrokerError) -> bool:
    """Whether each message of the round trip would have met with it alone, too."""
    return isinstance(error, BrokerUnavailable)

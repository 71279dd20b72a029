"""Sending: messages in, and what became of them."""

import time
from collections.abc import Sequence

from asynctasq.brokers import MessageState, Outgoing

from .store import DELAYED, WAITING, Message, Stored, where


class ToySending(Stored):
    async def put(self, messages: Sequence[Outgoing]) -> None:
        async with self._store.change() as state:
            for new in messages:
                message: Message = {
                    "id": new.id,
                    "body": bytes(new.body),
                    "state": WAITING if new.due is None else DELAYED,
                    "at": new.due or 0.0,
                    "place": state.next(),
                    "deliveries": 0,
                }
                state.queues.setdefault(new.queue, {}).setdefault(new.id, message)

    async def state(self, queue: str, message_id: str) -> MessageState | None:
        message = self._store.read().message(queue, message_id)
        return where(message) if message else None

    async def cancel(
        self, queue: str, message_id: str, result: bytes | None, result_ttl: float
    ) -> bool:
        async with self._store.change() as state:
            message = state.message(queue, message_id)
            if message is None or where(message) not in ("waiting", "delayed"):
                return False
            del state.queues[queue][message_id]
            if result is not None:
                state.keep(queue, message_id, result, result_ttl)
            return True

    async def result(self, queue: str, message_id: str, timeout_seconds: float) -> bytes | None:
        deadline = time.time() + timeout_seconds
        while True:
            state = self._store.read()
            body, expires = state.results.get(queue, {}).get(message_id, (None, 0.0))
            if body is not None and expires > time.time():
                return body
            if time.time() >= deadline:
                return None
            await self._store.changed(state.number, deadline)

"""Looking: what people see, and what they may do with it."""

import time
from collections.abc import Sequence
from dataclasses import replace

from asynctasq import BrokerError
from asynctasq.brokers import DeadLetter, Finding, MessageState, QueueStats, WorkerInfo

from .store import WAITING, Stored


class ToyLooking(Stored):
    async def stats(self) -> list[QueueStats]:
        state = self._store.read()
        states: list[MessageState] = ["waiting", "running", "delayed", "dead"]
        return [
            QueueStats(name, **{s: len(state.having(name, s)) for s in states})
            for name in sorted(state.queues)
        ]

    async def workers(self) -> list[WorkerInfo]:
        state = self._store.read()
        running = [m["owner"] for queue in state.queues for m in state.having(queue, "running")]
        shown = [WorkerInfo(*i) for i, until in state.workers.values() if until > time.time()]
        return [replace(i, queues=tuple(i.queues), running=running.count(i.id)) for i in shown]

    async def dead_letters(
        self, queue: str, *, limit: int = 100, offset: int = 0
    ) -> list[DeadLetter]:
        dead = self._store.read().having(queue, "dead")
        dead.sort(key=lambda m: (m["at"], m["place"]), reverse=True)
        page = dead[offset : offset + limit]
        return [DeadLetter(queue, m["id"], m["body"], m["info"], m["at"]) for m in page]

    async def find_dead(self, queue: str, message_ids: Sequence[str]) -> list[DeadLetter]:
        dead = self._store.read().having(queue, "dead")
        found = [m for m in dead if m["id"] in message_ids]
        return [DeadLetter(queue, m["id"], m["body"], m["info"], m["at"]) for m in found]

    async def retry_dead(self, queue: str, bodies: Sequence[tuple[str, bytes]]) -> int:
        async with self._store.change() as state:
            dead = {m["id"]: m for m in state.having(queue, "dead")}
            found = [(dead[i], body) for i, body in bodies if i in dead]
            for message, body in found:
                message.update(state=WAITING, at=0.0, deliveries=0, body=bytes(body))
            return len(found)

    async def purge_dead(self, queue: str, message_ids: Sequence[str] | None = None) -> int:
        return await self._delete(queue, message_ids, "dead")

    async def purge(self, queue: str) -> int:
        return await self._delete(queue, None, "waiting", "delayed")

    async def _delete(self, queue: str, ids: Sequence[str] | None, *states: MessageState) -> int:
        async with self._store.change() as state:
            found = {m["id"] for m in state.having(queue, *states)}
            found = found if ids is None else found.intersection(ids)
            for message_id in found:
                del state.queues[queue][message_id]
            return len(found)

    async def check(self) -> list[Finding]:
        try:
            async with self._store.change():
                return [Finding("ok", "toy broker", f"{self._store.folder} can be locked and read")]
        except BrokerError as e:
            return [Finding("error", "toy broker", str(e))]

    def describe(self) -> str:
        return f"toy {self._store.folder}"

"""Consuming: leases, and outcomes."""

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence

from asynctasq import BrokerError
from asynctasq.brokers import Action, ConsumerOptions, Delivery, Outcome

from .store import DEAD, DELAYED, LEASED, Message, State, Store, Stored

logger = logging.getLogger(__name__)


class ToyConsumer:
    def __init__(self, store: Store, options: ConsumerOptions) -> None:
        self._store = store
        self._options = options

    async def start(self) -> None:
        async with self._store.change() as state:
            for queue in self._options.queues:
                state.queues.setdefault(queue, {})
            self._announce(state)

    async def take(self, limit: int, timeout_seconds: float) -> list[Delivery]:
        deadline = time.time() + timeout_seconds
        queues = self._options.queues
        while True:
            async with self._store.change() as state:
                taken = self._lease(state, limit)
                later = [m["at"] for q in queues for m in state.having(q, "running", "delayed")]
            if taken or time.time() >= deadline:
                return taken
            await self._store.changed(state.number, min([deadline, *later]))

    def _lease(self, state: State, limit: int) -> list[Delivery]:
        taken: list[Delivery] = []
        until, owner = time.time() + self._options.lease_seconds, self._options.worker.id
        for queue in self._options.queues:
            ready = sorted(state.having(queue, "waiting"), key=turn)
            for m in ready[: limit - len(taken)]:
                lease, count = state.next(), m["deliveries"] + 1
                m.update(state=LEASED, at=until, owner=owner, lease=lease, deliveries=count)
                taken.append(Delivery(queue, m["id"], m["body"], count, tag=lease))
        return taken

    async def settle(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        async with self._store.change() as state:
            return [outcome for outcome in outcomes if not settle_one(state, outcome)]

    def renew(self, held: Sequence[Delivery]) -> list[Delivery]:
        return asyncio.run(self._renew(held))

    async def _renew(self, held: Sequence[Delivery]) -> list[Delivery]:
        async with self._store.change() as state:
            self._announce(state)
            mine = [(delivery, leased(state, delivery)) for delivery in held]
            for _, message in mine:
                if message is not None:
                    message["at"] = time.time() + self._options.lease_seconds
            return [delivery for delivery, message in mine if message is None]

    def _announce(self, state: State) -> None:
        info, now = self._options.worker, time.time()
        shown = [info.id, info.host, info.pid, info.queues, info.concurrency, info.started_at]
        state.workers = {i: known for i, known in state.workers.items() if known[1] > now}
        state.workers[info.id] = (shown, now + self._options.lease_seconds)

    async def idle(self) -> bool:
        state = self._store.read()
        alive = [state.having(q, "waiting", "running", "delayed") for q in self._options.queues]
        return not any(alive)

    async def stop(self) -> None:
        try:
            async with self._store.change() as state:
                withdraw(state, self._options.worker.id, self._options.queues, undo=True)
        except BrokerError as e:
            logger.warning("leases were not released and will run out: %s", e)


def turn(message: Message) -> tuple[int, float, int]:
    """First what was given back, then what was delayed, then what is new."""
    due = message["at"] if message["state"] == DELAYED else 0.0
    return message["state"], due, message["place"]


def leased(state: State, delivery: Delivery) -> Message | None:
    """The message, if this delivery of it is the current one."""
    message = state.message(delivery.queue, delivery.id)
    return message if message and message.get("lease") == delivery.tag else None


def settle_one(state: State, outcome: Outcome) -> bool:
    """Apply an outcome; `False` if its lease was lost."""
    delivery, action, now = outcome.delivery, outcome.action, time.time()
    message = leased(state, delivery)
    if message is None:
        return False
    if outcome.result is not None and action in (Action.DONE, Action.DEAD):
        state.keep(delivery.queue, delivery.id, outcome.result, outcome.result_ttl)
    body = message["body"] if outcome.body is None else bytes(outcome.body)
    message.update(body=body, lease=None)
    if action is Action.DONE:
        del state.queues[delivery.queue][delivery.id]
    elif action is Action.DEAD:
        message.update(state=DEAD, at=now, info=bytes(outcome.info))
    elif action is Action.RETRY:
        message.update(state=DELAYED, at=now + outcome.delay, deliveries=0)
    else:
        message["deliveries"] -= 1
        postponed = action is Action.POSTPONE
        message["state"] = DELAYED if postponed else LEASED
        message["at"] = now + outcome.delay if postponed else 0.0
    return True


def withdraw(state: State, worker_id: str, queues: Iterable[str], *, undo: bool) -> int:
    """Forget a worker and give back what it holds, as if never delivered if `undo`."""
    state.workers.pop(worker_id, None)
    held = [m for q in queues for m in state.queues.get(q, {}).values() if m.get("lease")]
    mine = [m for m in held if m["owner"] == worker_id]
    for message in mine:
        message.update(at=0.0, lease=None, deliveries=message["deliveries"] - undo)
    return len(mine)


class ToyConsuming(Stored):
    def consumer(self, options: ConsumerOptions) -> ToyConsumer:
        return ToyConsumer(self._store, options)

    async def release_worker(self, worker_id: str, queues: Sequence[str]) -> int:
        async with self._store.change() as state:
            return withdraw(state, worker_id, queues, undo=False)

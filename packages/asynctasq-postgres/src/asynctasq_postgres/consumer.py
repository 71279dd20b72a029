"""One worker's end of the queues."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from asynctasq import BrokerError, BrokerUnavailable
from asynctasq.brokers import (
    Action,
    ConsumerOptions,
    Delivery,
    Outcome,
    OutcomesRefused,
    pause_number,
)

from .failures import is_withdrawn
from .renewal import Renewal
from .server import Server
from .sizes import MOST_VALUE_BYTES, pages
from .waking import SOON_SECONDS, Wakes, queue_topic, result_topic, wait

logger = logging.getLogger(__name__)

#: Maximum share of time for looks at whole lanes, which have to pass all rows that a transaction
#: left open elsewhere keeps from being vacuumed. Looks in between begin where the last one ended.
_PART_OF_FULL_LOOKS = 0.1


class Tag(NamedTuple):
    """Locates one delivery.

    Attributes:
        has_line: Whether its end may let another message proceed.
    """

    worker: int
    message: int
    lease: int
    has_line: bool


class PostgresConsumer:
    """One worker's end of the queues."""

    def __init__(self, server: Server, wakes: Wakes, options: ConsumerOptions) -> None:
        self._server = server
        self._wakes = wakes
        self._options = options
        self._worker: int | None = None
        self._renewal = Renewal(server.address, options)
        self._since: dict[int, int] = {}
        self._full_at = 0.0
        self._attempts: set[asyncio.Task[Any]] = set()
        schema = server.address.schema
        self._announce = f"SELECT {schema}.announce($1, $2, $3, $4, $5, $6, $7, $8, $9)"
        self._take = f"SELECT * FROM {schema}.take($1, $2, $3, $4, $5, $6, true)"
        self._confirm = f"SELECT {schema}.confirm($1, $2, $3)"
        self._finish = f"SELECT {schema}.finish($1, $2, $3)"
        self._settle = f"SELECT {schema}.settle($1, $2, $3, $4, $5, $6, $7, $8, $9)"
        self._withdraw = f"SELECT {schema}.withdraw($1, 1)"
        self._is_idle = f"SELECT {schema}.is_idle($1)"

    async def start(self) -> None:
        """Announce the worker and its queues, and get ready to renew its leases."""
        number = await self._number()
        # Connect now, so that the first renewal that counts need not.
        await asyncio.to_thread(self._renewal.open, number)

    async def take(self, limit: int, timeout_seconds: float) -> list[Delivery]:
        """Lease up to `limit` messages, waiting for the first."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        topics = [queue_topic(queue) for queue in self._options.queues]
        with self._wakes.waiter(topics) as changed:
            while True:
                changed.clear()
                taken, ready_in = await self._attempt(limit)
                if taken or loop.time() >= deadline:
                    return taken
                if await self._wakes.listen(topics):
                    continue
                left = deadline - loop.time()
                await wait(changed, min(left, ready_in, self._wakes.poll_seconds))
                if loop.time() >= deadline and not changed.is_set():
                    return []  # the next take looks at once

    async def settle(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Apply the outcomes, in one statement unless they are large."""
        worker = await self._number()
        refused = [outcome for outcome in outcomes if _largest(outcome) > MOST_VALUE_BYTES]
        if refused:
            outcomes = [outcome for outcome in outcomes if outcome not in refused]
        lost: list[Outcome] = []
        for page in pages(outcomes, _weight):
            applied = await self._apply(worker, page)
            if applied is not None:
                lost += [outcome for n, outcome in enumerate(page, 1) if n not in applied]
        self._tell(outcomes)
        if refused:
            raise OutcomesRefused(f"{self._server.address.name} takes no such value", refused, lost)
        return lost

    def renew(self, held: Sequence[Delivery]) -> list[Delivery]:
        """Renew the leases and the worker's sign of life, on a separate connection."""
        if self._worker is None:
            return list(held)
        try:
            return self._renewal.renew(self._worker, held)
        except BrokerUnavailable as e:
            if not is_withdrawn(e):
                raise
            self._worker = None
            return list(held)

    async def idle(self) -> bool:
        """Whether its queues hold nothing but dead letters and messages held back by pauses."""
        return bool(await self._server.value(self._is_idle, list(self._options.queues)))

    async def stop(self) -> None:
        """Release what is leased, withdraw the worker, close the connection for leases."""
        if self._attempts:
            await asyncio.wait(self._attempts)
        self._worker = None
        options = self._options
        try:
            held = await self._server.value(self._withdraw, options.worker.id)
        except BrokerError as e:
            logger.warning("leases were not released and will run out: %s", e)
        else:
            if held:
                self._wakes.tell([queue_topic(queue) for queue in options.queues])
        await asyncio.to_thread(self._renewal.close)

    async def _number(self) -> int:
        """The worker's number, once it is announced."""
        if self._worker is None:
            info, lease_seconds = self._options.worker, self._options.lease_seconds
            number: int = await self._server.value(
                self._announce,
                info.id,
                info.host,
                info.pid,
                list(info.queues),
                info.concurrency,
                info.started_at,
                info.is_blocked,
                lease_seconds,
                list(self._options.queues),
            )
            self._worker = number
        return self._worker

    async def _attempt(self, limit: int) -> tuple[list[Delivery], float]:
        """What can be leased now; if nothing, in how many seconds to look again.

        If cancelled, it gives back what was leased meanwhile.
        """
        attempt = asyncio.create_task(self._look(limit))
        self._attempts.add(attempt)
        attempt.add_done_callback(self._attempts.discard)
        try:
            return await asyncio.shield(attempt)
        except asyncio.CancelledError:
            attempt.add_done_callback(self._give_back)
            raise

    async def _look(self, limit: int) -> tuple[list[Delivery], float]:
        loop = asyncio.get_running_loop()
        worker, started = await self._number(), loop.time()
        is_full = started >= self._full_at
        since = {} if is_full else self._since
        queues, lease_seconds = list(self._options.queues), self._options.lease_seconds
        try:
            rows = await self._server.ask(
                self._take, worker, queues, limit, lease_seconds, list(since), list(since.values())
            )
        except BrokerUnavailable as e:
            if is_withdrawn(e):
                self._worker = None
            raise
        if is_full:
            now = loop.time()
            self._full_at = now + (now - started) / _PART_OF_FULL_LOOKS
        pauses: dict[str, dict[str, bytes]] = {}
        while rows and rows[0]["message"] is None and rows[0]["queue"] is not None:
            row = rows.pop(0)
            pauses.setdefault(row["queue"], {})[row["id"]] = row["body"]
        if rows and rows[0]["message"] is None:
            ready_us = rows[0]["place"]
            ready_in = float("inf") if ready_us is None else ready_us / 1e6
            return [], ready_in if is_full else min(ready_in, max(0.0, self._full_at - started))
        for row in rows:
            # Messages that were given back are at the head of their lane, in any order.
            if row["lane"] % 8:
                self._since[row["lane"]] = row["place"]
        rows.sort(key=lambda row: (row["turn"], row["place"]))
        taken = [_delivery(worker, row, pauses.get(row["queue"])) for row in rows]
        await self._note_arrived(worker, [d for d in taken if d.deliveries > 1])
        return taken, 0.0

    async def _note_arrived(self, worker: int, again: Sequence[Delivery]) -> None:
        """Count deliveries of messages that were delivered before, now that they have arrived."""
        if again:
            messages = [delivery.tag.message for delivery in again]
            leases = [delivery.tag.lease for delivery in again]
            try:
                await self._server.ask(self._confirm, worker, messages, leases, is_repeatable=False)
            except BrokerUnavailable as e:  # they are leased anyway
                logger.warning("deliveries were not counted: %s", e)

    def _give_back(self, attempt: asyncio.Task[tuple[list[Delivery], float]]) -> None:
        if attempt.cancelled() or attempt.exception() is not None:
            return
        taken, _ = attempt.result()
        if taken:
            releasing = asyncio.create_task(self._release(taken))
            self._attempts.add(releasing)
            releasing.add_done_callback(self._attempts.discard)

    async def _release(self, taken: Sequence[Delivery]) -> None:
        try:
            await self.settle([Outcome(delivery, Action.RELEASE) for delivery in taken])
        except BrokerError as e:
            logger.warning("leases of a cancelled take were not released and will run out: %s", e)

    async def _apply(self, worker: int, outcomes: Sequence[Outcome]) -> list[int] | None:
        """Which outcomes were applied, counted from 1; `None` for all."""
        messages = [outcome.delivery.tag.message for outcome in outcomes]
        leases = [outcome.delivery.tag.lease for outcome in outcomes]
        applied: list[int] | None
        if all(o.action is Action.DONE and o.result is None for o in outcomes):
            applied = await self._server.value(self._finish, worker, messages, leases)
            return applied
        results = [o.result if o.action in (Action.DONE, Action.DEAD) else None for o in outcomes]
        applied = await self._server.value(
            self._settle,
            worker,
            messages,
            leases,
            [outcome.action.value for outcome in outcomes],
            [_delay(outcome) for outcome in outcomes],
            [outcome.body for outcome in outcomes],
            [_info(outcome) for outcome in outcomes],
            None if not any(result is not None for result in results) else results,
            [float(outcome.result_ttl) for outcome in outcomes],
        )
        return applied

    def _tell(self, outcomes: Sequence[Outcome]) -> None:
        topics = {topic for outcome in outcomes for topic in topics_of(outcome)}
        if topics:
            self._wakes.tell(topics)


def _delivery(worker: int, row: Any, pauses: Mapping[str, bytes] | None) -> Delivery:
    tag = Tag(worker, row["message"], row["lease"], row["line"] is not None)
    return Delivery(row["queue"], row["id"], row["body"], row["deliveries"], tag, pauses)


def _delay(outcome: Outcome) -> float:
    return float(pause_number(outcome.pause) if outcome.action is Action.PARK else outcome.delay)


def _info(outcome: Outcome) -> bytes:
    return outcome.pause.encode() if outcome.action is Action.PARK else outcome.info


def topics_of(outcome: Outcome) -> Iterator[str]:
    """The topics whose waiters an outcome may concern."""
    queue, action = outcome.delivery.queue, outcome.action
    if outcome.delivery.tag.has_line:
        yield queue_topic(queue)
    if action in (Action.DONE, Action.DEAD):
        if outcome.result is not None:
            yield result_topic(queue)
    elif action is Action.RELEASE or outcome.delay < SOON_SECONDS:
        yield queue_topic(queue)


def _largest(outcome: Outcome) -> int:
    return max(len(outcome.body or b""), len(outcome.info), len(outcome.result or b""))


def _weight(outcome: Outcome) -> int:
    return len(outcome.body or b"") + len(outcome.info) + len(outcome.result or b"")

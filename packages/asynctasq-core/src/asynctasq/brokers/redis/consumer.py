"""Taking messages from Redis, settling them, and letting go of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

from redis.exceptions import ResponseError

from ...errors import BrokerError, BrokerUnavailable, OutcomesRefused
from .. import Action, ConsumerOptions, Delivery, Outcome
from .failures import denial, is_about_size
from .keys import Keys
from .registry import announcement, release_worker, withdrawal
from .renewal import Renewal
from .scripts import IDLE, RIGHTS, Command
from .server import Request, Server
from .settlements import Settlement, settlements
from .shard import Shard

logger = logging.getLogger(__name__)

#: Seconds between sweeps for released, expired and due messages.
SWEEP_SECONDS = 0.5
#: Seconds between attempts to settle an outcome that may be too large; after the last, it is.
_PAUSES_BEFORE_REFUSED = (0.1, 0.2, 0.4, 0.8)
#: Seconds to keep a message read in advance for the next `take`, before leaving it to others.
_UNCLAIMED_SECONDS = 0.05


class RedisConsumer:
    """One worker process's end of the queues.

    Queues that live in one place (all of them, unless the server is a cluster) form a shard, and
    one round trip serves the whole shard. With several shards, each has its own blocking read,
    which briefly outlives the call that started it. The next call hands out what it brings, or it
    is released if no call comes soon.
    """

    def __init__(self, server: Server, keys: Keys, options: ConsumerOptions) -> None:
        self._server = server
        self._keys = keys
        self._options = options
        name = f"{options.worker.id}~{round(options.lease_seconds * 1000)}".encode()
        self._consumer = name
        groups = [(q,) for q in options.queues] if server.is_cluster else [options.queues]
        self._shards = [Shard(server, keys, group, name) for group in groups]
        self._readers: dict[Shard, asyncio.Task[None]] = {}
        self._arrived: list[Delivery] = []
        self._is_taking = False
        #: The latest delivery's tag, for messages taken over from a released or lost lease.
        self._reclaimed: dict[tuple[str, bytes], bytes] = {}
        #: Outcomes that a call of `settle` had applied when it failed.
        self._applied: list[Outcome] = []
        self._sweep_at = 0.0
        #: Whether its queues have messages that ask for something, which only sweeps find.
        self._sweeps_first = False
        self._renewal = Renewal(server.address.config, keys, options, name)

    async def start(self) -> None:
        """Announce the worker; see `Consumer.start`."""
        probe = self._keys.probe
        if denied := await self._server.call(probe, RIGHTS((probe,))):
            commands = b", ".join(sorted(set(denied))).decode()
            raise denial(f"commands {commands}", self._server.address.name)
        announce = announcement(self._keys, self._options)
        if not await self._server.call(self._keys.queues, announce):
            logger.error("worker is not listed: the registry's keys hold another type; delete them")
        self._sweep_at = 0.0

    async def take(self, limit: int, timeout_seconds: float) -> list[Delivery]:
        """Lease up to `limit` messages; see `Consumer.take`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        self._is_taking = True
        if self._sweeps_first or any(shard.is_fenced for shard in self._shards):
            self._sweep_at = 0.0
        try:
            while True:
                found = await self._look(limit)
                if not found:
                    self._note_wake_ups()
                    wait = min(deadline, self._sweep_at) - loop.time()
                    found = await self._wait(limit, wait)
                if len(found) > limit:
                    await self._release(found[limit:])
                if found or loop.time() >= deadline:
                    return found[:limit]
        finally:
            self._is_taking = False

    def renew(self, held: Sequence[Delivery]) -> list[Delivery]:
        """Renew leases; see `Consumer.renew`."""
        lost = [delivery for delivery in held if self._is_superseded(delivery)]
        current = [delivery for delivery in held if not self._is_superseded(delivery)]
        waiting = list(self._arrived)
        gone = self._renewal.renew(current + waiting)
        return lost + [delivery for delivery in gone if delivery not in waiting]

    async def settle(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Apply outcomes; see `Consumer.settle`."""
        by_queue: dict[str, list[Outcome]] = {}
        superseded: list[Outcome] = []
        for outcome in outcomes:
            if self._applied and any(outcome is applied for applied in self._applied):
                continue
            if self._reclaimed and self._is_superseded(outcome.delivery):
                superseded.append(outcome)
                continue
            by_queue.setdefault(outcome.delivery.queue, []).append(outcome)
            if outcome.action is Action.RELEASE:
                self._sweep_at = 0.0
        parts = [part for queue, some in by_queue.items() for part in settlements(queue, some)]
        gone, refused = await self._apply(parts)
        self._applied.clear()
        if not gone and not self._reclaimed and not refused:
            return superseded
        settled = [outcome for part in parts if part not in refused for outcome in part.outcomes]
        for outcome in settled:
            self._reclaimed.pop((outcome.delivery.queue, outcome.delivery.tag), None)
        lost = superseded + [o for o in settled if (o.delivery.queue, o.delivery.tag) in gone]
        if refused:
            where = self._server.address.name
            raise OutcomesRefused(
                f"{where} takes no value of this size",
                [o for p in refused for o in p.outcomes],
                lost,
            )
        return lost

    async def _apply(
        self, parts: Sequence[Settlement]
    ) -> tuple[set[tuple[str, bytes]], list[Settlement]]:
        """Apply these parts; return the deliveries that were lost and the parts refused."""
        gone: set[tuple[str, bytes]] = set()
        refused = []
        for part in parts:
            if part.is_large:
                try:
                    entries = await self._apply_alone(*self._request(part))
                except OutcomesRefused:
                    refused.append(part)
                else:
                    gone.update((part.queue, part.tag_of(entry)) for entry in entries)
                    self._applied += part.outcomes
        small = [part for part in parts if not part.is_large]
        if small:
            replies = await self._server.call_many([self._request(part) for part in small])
            for part, entries in zip(small, replies, strict=True):
                gone.update((part.queue, part.tag_of(entry)) for entry in entries)
        return gone, refused

    async def _apply_alone(self, stream: bytes, command: Command) -> list[bytes]:
        """Apply an outcome that the server may refuse because of its size.

        The server refuses by closing the connection, often before its error arrives. To tell that
        from an outage, ask it something else and then try again.
        """
        failure: BrokerError | None = None
        for pause in _PAUSES_BEFORE_REFUSED:
            try:
                entries: list[bytes] = await self._server.call(stream, command)
            except BrokerError as e:
                failure = e
            else:
                return entries
            if is_about_size(failure):
                break
            if isinstance(failure.__cause__, ResponseError):
                raise failure
            await asyncio.sleep(pause)
            await self._server.call(stream, (b"TIME",))
        raise OutcomesRefused(str(failure), (), ()) from failure

    def _request(self, part: Settlement) -> Request:
        keys = self._keys.of(part.queue)
        return keys.stream, part.command(keys, self._consumer)

    def _is_superseded(self, delivery: Delivery) -> bool:
        """Whether this consumer has taken the message again since; the server cannot tell."""
        tag = self._reclaimed.get((delivery.queue, delivery.tag), delivery.tag)
        return tag is not delivery.tag

    async def idle(self) -> bool:
        """Whether its queues hold nothing but dead letters and paused messages."""
        requests: list[Request] = []
        for queue in self._options.queues:
            keys = self._keys.of(queue)
            requests.append((keys.stream, IDLE((keys.stream, keys.delayed))))
        return all(await self._server.call_many(requests))

    async def stop(self) -> None:
        """Release what is leased and withdraw; see `Consumer.stop`."""
        for task in self._readers.values():
            task.cancel()
        await asyncio.gather(*self._readers.values(), return_exceptions=True)
        self._readers.clear()
        self._arrived.clear()
        worker_id = self._options.worker.id
        # If the server is unreachable, the leases expire by themselves.
        with suppress(BrokerError, TimeoutError):
            async with asyncio.timeout(self._server.timeout_seconds):
                for queue in self._options.queues:
                    keys = self._keys.of(queue)
                    for stream in (keys.stream, keys.admitted):
                        await release_worker(self._server.call, stream, worker_id, taken_back=1)
                await self._server.call(self._keys.queues, withdrawal(self._keys, worker_id))
        await asyncio.to_thread(self._renewal.close)

    async def _look(self, limit: int) -> list[Delivery]:
        found, self._arrived = self._arrived, []
        self._note_wake_ups()
        if asyncio.get_running_loop().time() >= self._sweep_at:
            await self._sweep(limit, found)
        elif len(self._options.queues) > 1:
            await self._read_present(limit, found)
        return found

    def _note_wake_ups(self) -> None:
        """Sweep next if a read has found an entry whose only purpose is to wake."""
        for shard in self._shards:
            if shard.is_woken:
                shard.is_woken = False
                self._sweep_at = 0.0

    async def _sweep(self, limit: int, found: list[Delivery]) -> None:
        now = asyncio.get_running_loop().time()
        next_sweep = SWEEP_SECONDS
        failure: BrokerUnavailable | None = None
        for shard in self._shards:
            try:
                sweep = await shard.sweep(max(0, limit - len(found)))
            except BrokerUnavailable as e:
                failure = e
                continue
            found += sweep.found
            self._sweeps_first |= sweep.is_asking
            self._reclaimed.update(((d.queue, d.tag), d.tag) for d in sweep.claimed)
            next_sweep = min(next_sweep, sweep.next_due_seconds)
        if failure is None:
            self._sweep_at = now + next_sweep
        elif not found:
            raise failure

    async def _read_present(self, limit: int, found: list[Delivery]) -> None:
        failure: BrokerUnavailable | None = None
        for shard in self._shards:
            if len(found) >= limit:
                return
            try:
                deliveries = await shard.read_present(limit - len(found))
            except BrokerUnavailable as e:
                failure = e
                continue
            found += deliveries
        if failure and not found:
            raise failure

    async def _wait(self, limit: int, wait_seconds: float) -> list[Delivery]:
        if len(self._shards) == 1:
            return await self._shards[0].read_next(limit, wait_seconds)
        if wait_seconds <= 0:
            return []
        for shard in self._shards:
            if shard not in self._readers:
                self._readers[shard] = asyncio.create_task(self._read_into_arrived(shard))
        done, _ = await asyncio.wait(
            self._readers.values(), timeout=wait_seconds, return_when=asyncio.FIRST_COMPLETED
        )
        for shard in self._shards:
            if self._readers[shard] in done:
                failure = self._readers.pop(shard).exception()
                if failure and not self._arrived:
                    raise failure
        found, self._arrived = self._arrived, []
        return found

    async def _read_into_arrived(self, shard: Shard) -> None:
        # Two steps, since `self._arrived += await ...` would load the list before the wait and then
        # restore its old contents.
        arrived = await shard.read_next(1, SWEEP_SECONDS)
        self._arrived += arrived
        if self._arrived and not self._is_taking:
            await asyncio.sleep(_UNCLAIMED_SECONDS)
            unclaimed, self._arrived = self._arrived, []
            await self._release(unclaimed)

    async def _release(self, surplus: Sequence[Delivery]) -> None:
        # If the server is unreachable, these leases expire by themselves.
        with suppress(BrokerUnavailable):
            await self.settle([Outcome(delivery, Action.RELEASE) for delivery in surplus])

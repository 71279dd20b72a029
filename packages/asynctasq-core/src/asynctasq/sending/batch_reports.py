"""Tells batches how their calls ended.

Owns the rule that a batch counts its calls exactly: reports that arrive while one is being written
are gathered and written together by compare-and-set, and a repeated report adds nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgpack

from ..adapters.plugins import Adapters
from ..brokers import Backoff, Broker, Remembering
from ..config import Config
from ..errors import BrokerError, BrokerUnavailable, PayloadTooLarge
from ..wire.flow import BatchPlace, ChainLink, Flow, following_id
from ..wire.message import new_id
from .batch_values import (
    BATCH,
    COUNTS,
    DONE_SECONDS,
    RESULTS,
    BatchSpec,
    decode_counts,
    decode_results,
    decode_spec,
    encode_results,
)
from .following import NONE, forget_put, link_message, put_once

logger = logging.getLogger(__name__)

_Key = tuple[str, str]


@dataclass(slots=True)
class _Report:
    index: int
    is_done: bool
    result: bytes | None
    written: asyncio.Future[None]


@dataclass(slots=True)
class _Pending:
    """Unwritten reports to one batch, and the asyncio task that writes them."""

    reports: list[_Report] = field(default_factory=list)
    writing: asyncio.Task[None] | None = None


class BatchReports:
    """Reports to batches on one event loop, from a worker's runs and from cancellations."""

    def __init__(self, config: Config, adapters: Adapters, broker: Broker) -> None:
        self._config, self._adapters = config, adapters
        self._broker = broker
        self._pending: dict[_Key, _Pending] = {}
        self._specs: dict[_Key, BatchSpec] = {}
        self._failed: set[_Key] = set()

    async def report(self, place: BatchPlace, *, is_done: bool, result: bytes | None) -> None:
        """Report that a call of a batch has ended; returns once the broker has kept that.

        If the batch is gone or damaged, this is logged.

        Args:
            result: The call's encoded return value, if the batch hands it on.
        """
        loop = asyncio.get_running_loop()
        key = (place.queue, place.id)
        pending = self._pending.setdefault(key, _Pending())
        report = _Report(place.index, is_done, result, loop.create_future())
        pending.reports.append(report)
        if pending.writing is None:
            pending.writing = loop.create_task(self._write(key, pending))
        # If this is cancelled, the call goes back, and its next run reports again.
        await report.written

    async def _write(self, key: _Key, pending: _Pending) -> None:
        try:
            while pending.reports:
                reports, pending.reports = pending.reports, []
                await self._write_until_kept(key, reports)
                for report in reports:
                    if not report.written.done():
                        report.written.set_result(None)
        finally:
            del self._pending[key]

    async def _write_until_kept(self, key: _Key, reports: list[_Report]) -> None:
        backoff = Backoff()
        while True:
            try:
                await self._write_some(key, reports)
            except BrokerUnavailable as e:
                fields = {"step": "report to a batch", "error": str(e)}
                logger.warning("broker unavailable, retrying", extra=fields)
                await asyncio.sleep(backoff.next())
            except Exception:
                # The calls have ended whatever went wrong here; running them again would not help.
                fields = {"batch": key[1], "calls": str(len(reports))}
                logger.exception("calls of a batch could not be counted", extra=fields)
                return
            else:
                return

    async def _write_some(self, key: _Key, reports: list[_Report]) -> None:
        queue, batch_id = key
        broker, keys = self._remembering(), self._config.signing_key
        spec = await self._spec(key)
        if spec is None:
            logger.warning("calls of a batch that is gone", extra={"batch": batch_id})
            return
        sound = [report for report in reports if report.index < spec.total]
        if spec.then is not None and spec.then.takes_result:
            await self._keep_results(key, [report for report in sound if report.is_done])
        while True:
            value = await broker.value(queue, COUNTS, batch_id)
            before = decode_counts(value, batch_id, spec.total, keys)
            after = before.after((report.index, report.is_done) for report in sound)
            if after == before and value is not None:
                break
            kept = after.encode(batch_id, spec.total, keys)
            if await broker.replace_value(
                queue, COUNTS, batch_id, kept, expected=value, wakes=True
            ):
                break
        if after.failed and key not in self._failed:
            await self._fail(key, spec)
            self._failed.add(key)
        if after.is_whole(spec.total):
            await self._end(key, spec)

    async def _fail(self, key: _Key, spec: BatchSpec) -> None:
        await self._follow(key, spec, spec.catch, f"{key[1]} catch")
        if spec.place is not None:
            await self.report(spec.place, is_done=False, result=None)

    async def _end(self, key: _Key, spec: BatchSpec) -> None:
        queue, batch_id = key
        broker = self._remembering()
        try:
            await self._follow(key, spec, spec.then, batch_id)
        except PayloadTooLarge as e:
            logger.error("what follows a batch cannot be put: %s", e, extra={"batch": batch_id})
            await self._fail(key, spec)
        if spec.then is not None and spec.then.takes_result:
            await broker.delete_values(queue, f"{RESULTS}{batch_id}")  # nobody needs them now
        if spec.then is None and spec.place is not None:
            await self.report(spec.place, is_done=True, result=None)
        for kind in (BATCH, COUNTS):
            if (value := await broker.value(queue, kind, batch_id)) is not None:
                await broker.set_value(queue, kind, batch_id, value, ttl_seconds=DONE_SECONDS)
        self._specs.pop(key, None)
        self._failed.discard(key)

    async def _follow(
        self, key: _Key, spec: BatchSpec, link: ChainLink | None, origin: str
    ) -> None:
        """Put the call that follows the batch's end or failure, unless somebody has."""
        if link is None:
            return
        config, broker = self._config, self._remembering()
        payload = link.payload
        if link.takes_result:
            payload = link.payload_with(await self._results(key, spec))
        flow = Flow(parent=key, place=spec.place if link is spec.then else None)
        outgoing = link_message(
            link,
            following_id(origin),
            payload,
            flow,
            self._adapters,
            config.signing_key,
            config.max_payload_bytes,
        )
        await put_once(broker, outgoing)
        await forget_put(broker, outgoing.queue, outgoing.id, DONE_SECONDS)

    async def _spec(self, key: _Key) -> BatchSpec | None:
        if (known := self._specs.get(key)) is not None:
            return known
        queue, batch_id = key
        value = await self._remembering().value(queue, BATCH, batch_id)
        if value is None:
            return None
        spec = self._specs[key] = decode_spec(value, batch_id, self._config.signing_key)
        return spec

    async def _keep_results(self, key: _Key, reports: Sequence[_Report]) -> None:
        """Keep what calls returned; under new names, since another worker may run one again."""
        queue, batch_id = key
        results = ((r.index, NONE if r.result is None else r.result) for r in reports)
        for value in encode_results(results, batch_id, self._config.signing_key):
            await self._remembering().set_value(
                queue, f"{RESULTS}{batch_id}", new_id(), value, ttl_seconds=DONE_SECONDS
            )

    async def _results(self, key: _Key, spec: BatchSpec) -> bytes:
        """An encoded list of what the calls returned, in the order of the calls."""
        queue, batch_id = key
        found: dict[int, bytes] = {}
        for value in (await self._remembering().values(queue, f"{RESULTS}{batch_id}")).values():
            found |= decode_results(value, batch_id, self._config.signing_key)
        head: bytes = msgpack.Packer().pack_array_header(spec.total)
        return head + b"".join(found.get(i, NONE) for i in range(spec.total))

    def _remembering(self) -> Remembering:
        if not isinstance(self._broker, Remembering):
            raise BrokerError(f"{self._broker.describe()} cannot keep batches")
        return self._broker

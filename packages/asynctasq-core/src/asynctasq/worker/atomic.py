"""Atomic tasks: one transaction for what a task writes and dispatches, and for the mark "done".

Owns the rule that only one run of a call ever commits: the row that marks the call done has the
call's id as its key. A run that failed first looks for that row, because its own commit may have
succeeded without an answer, or another run may have committed.

In the broker's own database the transaction settles the delivery instead, and no row is needed:
only one run holds the lease, and a finished message is gone. Calls in a batch still use the row,
because their batch has to be told of their end as well.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from time import time
from typing import Any, TypeVar

import msgpack

from ..adapters.fetching import Wanted
from ..adapters.plugins import Adapter, Adapters
from ..adapters.statements import Database, Run, Statement, Transaction
from ..brokers import Outcome, Outgoing
from ..config.settings import Config
from ..errors import (
    BrokerError,
    ConfigurationError,
    DeletedModelError,
    PayloadTooLarge,
    ReferenceUnavailable,
    UnsavedModelError,
)
from ..sending import tables
from ..sending.commits import Atomic, dispatching_in
from ..sending.following import NONE, next_call
from ..sending.joining import Joining
from ..sending.telling import tell_dispatched
from ..tasks.task import Task
from ..wire.reference import Ref
from . import outcomes
from .jobs import Job
from .outcomes import Verdict
from .postponing import is_outage

logger = logging.getLogger(__name__)

R = TypeVar("R")

#: Seconds a database may take to say whether a call whose run failed is done after all.
LOOK_SECONDS = 10.0

_unanswered: set[asyncio.Task[Any]] = set()  # the event loop keeps only weak references


class Decided(Exception):
    """Rolls back a run whose verdict is known already."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.word)
        self.verdict = verdict


@dataclass(slots=True)
class AtomicRun:
    """A run of an atomic task in its open transaction.

    Attributes:
        joining: Settles the delivery in the transaction; only on the broker's own database.
        verdict: The verdict on the run if its transaction commits.
        following: The call that follows in that case, kept in the outbox or put in the transaction.
    """

    config: Config
    adapters: Adapters
    job: Job
    adapter: Adapter
    transaction: Transaction
    joining: Joining | None = None
    verdict: Verdict | None = None
    following: Outgoing | None = None

    @property
    def is_settling(self) -> bool:
        """Whether a commit of the transaction would now settle the delivery."""
        return self.joining is not None and self.verdict is not None

    async def look(self) -> None:
        """Check whether the call is done already.

        Raises:
            Decided: It is.
            ConfigurationError: The table of finished calls cannot be read.
        """
        try:
            verdict = await _done(self.job, self.transaction.run)
        except ReferenceUnavailable:
            raise
        except Exception as e:
            raise ConfigurationError(
                f"{self.transaction.database.name}: the table {tables.DONE} cannot be read; "
                f"`asynctasq doctor` says what is missing"
            ) from e
        if verdict is not None:
            raise Decided(verdict)

    async def end(self, value: object) -> None:
        """Record in the transaction that the call is done, and what it returned.

        Raises:
            Decided: The value cannot be kept.
        """
        if self.joining is not None:
            await self._settle(self.joining, value)
            return
        run, message_id = self.transaction.run, self.job.message.id
        # First: this flushes new rows, so that those in the value have their keys.
        await run(tables.done(message_id, time()))
        verdict = outcomes.succeeded(self.config, self.adapters, self.job, value)
        if verdict.word != "succeeded":
            raise Decided(verdict)
        if (kept := _kept(self.job, verdict)) is not None:
            await run(tables.with_result(message_id, kept))
        if self.job.flow.then:
            self.following = self._next(verdict)
            for statement in tables.insertion((self.following,)):
                await run(statement)
        self.verdict = verdict

    async def _settle(self, joining: Joining, value: object) -> None:
        """Settle the delivery in the transaction.

        Raises:
            Decided: The value cannot be kept, or the lease was lost and another run has the call.
        """
        run, job = self.transaction.run, self.job
        if job.options.result_ttl is not None or job.flow.then:
            # Any statement flushes new rows, so that those in the value have their keys.
            await run(Statement("SELECT 1"))
        verdict = outcomes.succeeded(self.config, self.adapters, job, value)
        if verdict.word != "succeeded":
            raise Decided(verdict)
        if job.flow.then:
            self.following = self._next(verdict)
            await joining.put((self.following,), run)
        if not await run(joining.settling(verdict.outcome)):
            raise Decided(outcomes.released(job, self.config))
        self.verdict = verdict

    def note_committed(self) -> None:
        """Note that the transaction has committed and so has settled the delivery."""
        if self.joining is None or self.verdict is None:
            return
        self.verdict.is_settled = True
        if self.following is not None:
            self.joining.tell_put((self.following,))
            tell_dispatched((self.following,))
            self.following = None

    def _next(self, verdict: Verdict) -> Outgoing:
        """The call that follows.

        Raises:
            Decided: It is too large.
        """
        config, job = self.config, self.job
        result = NONE if verdict.handed_on is None else verdict.handed_on
        try:
            return next_call(
                job.flow,
                job.message,
                result,
                self.adapters,
                config.signing_key,
                config.max_payload_bytes,
            )
        except PayloadTooLarge as e:
            reason = "what follows it cannot be put"
            raise Decided(outcomes.dead(config, self.adapters, job, e, reason)) from e


@asynccontextmanager
async def atomic_run(
    config: Config,
    adapters: Adapters,
    job: Job,
    wanted: Wanted | None,
    joining: Joining | None,
) -> AsyncIterator[AtomicRun]:
    """Open the transaction of one run; commits at the end.

    Args:
        joining: Tells whether the database is the broker's; `None` for brokers outside databases.

    Raises:
        Decided: The call is done.
    """
    refs = wanted.rows if wanted is not None else ()
    adapter, begin = _begin(adapters, job.task, job.options.atomic, refs)
    async with begin as transaction:
        joined = joining if job.flow.place is None else None
        if joined is not None and not await joined.can_join(
            adapter.name, transaction.database, transaction.run
        ):
            joined = None
        run = AtomicRun(config, adapters, job, adapter, transaction, joined)
        if joined is None:
            await run.look()
        job.atomic = run
        with dispatching_in(Atomic(adapter, transaction.target)):
            yield run
    run.note_committed()


@asynccontextmanager
async def executed(
    adapters: Adapters, task: Task[Any, Any], target: object, arguments: Iterable[object]
) -> AsyncIterator[None]:
    """Open the transaction of a call that runs without a queue, so that nothing marks it done.

    Args:
        arguments: The call's arguments.
    """
    refs = list(_references(adapters, arguments))
    adapter, begin = _begin(adapters, task, target, refs)
    async with begin as transaction:
        with dispatching_in(Atomic(adapter, transaction.target)):
            yield


def _references(adapters: Adapters, arguments: Iterable[object]) -> Iterator[Ref]:
    for argument in arguments:
        if (owner := adapters.owner_of(argument)) is not None:
            with suppress(UnsavedModelError, DeletedModelError):
                yield replace(owner.to_ref(argument), orm=owner.name)


async def verdict_if_done(
    config: Config, adapters: Adapters, job: Job, error: BaseException, joining: Joining | None
) -> Verdict | None:
    """The verdict on an atomic run that raised; `None` if the error itself has to decide."""
    if isinstance(error, Decided):
        return error.verdict
    if job.atomic is not None and job.atomic.joining is not None:
        if not job.atomic.is_settling:
            return None
        return await _verdict_if_settled(config, adapters, job, job.atomic.joining)
    if isinstance(error, ReferenceUnavailable):
        return None  # the next run looks
    if job.atomic is None:
        if isinstance(error, ConfigurationError):
            return None
        # A row is missing, for example: an earlier run may have committed and deleted it.
        return await verdict_if_done_anywhere(config, adapters, job, joining)
    place = (job.atomic.adapter, job.atomic.transaction.database)
    return await _looked_up(config, adapters, job, [place], joining)


async def verdict_if_done_anywhere(
    config: Config, adapters: Adapters, job: Job, joining: Joining | None
) -> Verdict | None:
    """As `verdict_if_done` where only databases can know: the run's process died, for example."""
    if joining is not None:
        settled = await _verdict_if_settled(config, adapters, job, joining)
        if settled is not None:
            return settled
    found = []
    for adapter in adapters.with_hook("atomic_transaction"):
        found += [(adapter, database) for database in (adapter.databases or tuple)()]
    return await _looked_up(config, adapters, job, found, joining)


async def _verdict_if_settled(
    config: Config, adapters: Adapters, job: Job, joining: Joining
) -> Verdict | None:
    """The verdict if the queue no longer holds the message: only its own run settles it."""
    try:
        if await joining.holds(job.delivery.queue, job.delivery.id):
            return None
    except BrokerError as e:
        return _unknown(config, adapters, job, "the broker", e)
    logger.info("a call is done", extra={"id": job.message.id})
    return Verdict(Outcome(job.delivery), "succeeded", is_settled=True)


def _unknown(config: Config, adapters: Adapters, job: Job, who: str, error: Exception) -> Verdict:
    """The verdict when nobody can say whether the call is done.

    A retry would spend an attempt on a call that may be done; waiting costs nothing.
    """
    fields = {"id": job.message.id}
    logger.error("it is not known whether a call is done", extra=fields, exc_info=error)
    unknown = ReferenceUnavailable(f"{who} does not say whether the call is done")
    unknown.__cause__ = error
    return outcomes.failed(config, adapters, job, unknown)


async def _looked_up(
    config: Config,
    adapters: Adapters,
    job: Job,
    places: Sequence[tuple[Adapter, Database]],
    joining: Joining | None,
) -> Verdict | None:
    for adapter, database in places:
        may_lack_tables = len(places) > 1  # not every database needs the tables
        try:
            if joining is not None:
                may_lack_tables |= await _in_time(_can_join(joining, adapter, database))
            verdict = await _in_time(_asked(adapter, database, job))
        except Exception as e:  # noqa: BLE001 - a driver's own, which is logged
            is_silent = isinstance(e, TimeoutError) or is_outage(adapters, job, e)
            if may_lack_tables and not is_silent:
                continue
            return _unknown(config, adapters, job, database.name, e)
        if verdict is not None:
            return verdict
    return None


async def _asked(adapter: Adapter, database: Database, job: Job) -> Verdict | None:
    assert adapter.own_transaction is not None
    async with adapter.own_transaction(database) as run:
        return await _done(job, run)


async def _can_join(joining: Joining, adapter: Adapter, database: Database) -> bool:
    assert adapter.own_transaction is not None
    async with adapter.own_transaction(database) as run:
        return await joining.can_join(adapter.name, database, run)


async def _in_time(asking: Coroutine[Any, Any, R]) -> R:
    """Wait up to `LOOK_SECONDS` for an answer, without waiting for the cancelled question to end.

    The question may sit in a thread until the database answers. Meanwhile the run already has its
    verdict, and its slot is free.
    """
    task = asyncio.ensure_future(asking)
    try:
        await asyncio.wait([task], timeout=LOOK_SECONDS)
    finally:
        if not task.done():
            task.cancel()
            _unanswered.add(task)
            task.add_done_callback(_forget)
    if not task.done():
        raise TimeoutError(f"no answer within {LOOK_SECONDS:g} s")
    return task.result()


def _forget(task: asyncio.Task[Any]) -> None:
    _unanswered.discard(task)
    if not task.cancelled():
        task.exception()  # retrieved so that asyncio does not log it; the silence was logged


async def _done(job: Job, run: Run) -> Verdict | None:
    rows = await run(tables.done_result(job.message.id))
    if not rows:
        return None
    logger.info("a call came again that is done", extra={"id": job.message.id})
    result, handed_on = _read_kept(job, rows[0][0])
    if result is None or job.options.result_ttl is None:
        return Verdict(Outcome(job.delivery), "succeeded", handed_on=handed_on)
    outcome = Outcome(job.delivery, result=result, result_ttl=job.options.result_ttl)
    return Verdict(outcome, "succeeded", handed_on=handed_on)


def _kept(job: Job, verdict: Verdict) -> bytes | None:
    """What to keep of a call's return value: its result, and what its batch is still to get."""
    result, handed_on = verdict.outcome.result, verdict.handed_on
    if not _is_collected(job):
        return result
    packed: bytes = msgpack.packb([result, handed_on])
    return packed


def _read_kept(job: Job, kept: Any) -> tuple[bytes | None, bytes | None]:
    if kept is None:
        return None, None
    if not _is_collected(job):
        return bytes(kept), None
    result, handed_on = msgpack.unpackb(bytes(kept))
    return result, handed_on


def _is_collected(job: Job) -> bool:
    """Whether a batch passes on what the call returns; what follows in a chain is put already."""
    return job.flow.wants_result and not job.flow.then


# --- in which database ------------------------------------------------------------------


def _begin(
    adapters: Adapters, task: Task[Any, Any], target: object, refs: Sequence[Ref]
) -> tuple[Adapter, AbstractAsyncContextManager[Transaction]]:
    adapter = _adapter_of(adapters, task, target, {ref.orm for ref in refs})
    assert adapter.atomic_transaction is not None
    mine = [ref for ref in refs if ref.orm == adapter.name]
    return adapter, adapter.atomic_transaction(target, mine)


def _adapter_of(
    adapters: Adapters, task: Task[Any, Any], target: object, orms: set[str]
) -> Adapter:
    """The adapter that begins the transaction.

    Args:
        orms: Names of the adapters that own the task's model instances.
    """
    able = adapters.with_hook("atomic_transaction")
    if isinstance(target, type):
        owner = adapters.owner_of_class(target)
        able = [adapter for adapter in able if adapter is owner]
    elif isinstance(target, str):
        able = [a for a in able if target in [d.name for d in (a.databases or tuple)()]]
    elif orms:
        able = [adapter for adapter in able if adapter.name in orms]
    else:
        able = [a for a in able if any(True for _ in (a.databases or tuple)())]
    if len(able) == 1:
        return able[0]
    word = "no" if not able else "more than one"
    raise ConfigurationError(
        f"task {task.name}: atomic={_shown(target)} means {word} database that an installed "
        f"adapter can run it in; name a model, as in atomic=Order"
    )


def _shown(target: object) -> str:
    return target.__name__ if isinstance(target, type) else repr(target)


def check_atomic_tasks(config: Config, adapters: Adapters, tasks: Iterable[Task[Any, Any]]) -> None:
    """Refuse atomic tasks that no installed adapter can run; call once all modules are imported.

    Raises:
        ConfigurationError: Names the task.
    """
    for task in tasks:
        target = task.options(config.task_defaults).atomic
        if isinstance(target, type):
            _adapter_of(adapters, task, target, set())
        elif target and not adapters.with_hook("atomic_transaction"):
            raise ConfigurationError(
                f"task {task.name}: no installed adapter can run atomic tasks; see `asynctasq "
                f"plugins`"
            )

"""Atomic tasks: one transaction for what a task writes and dispatches, and for that it is done.

Owns the rule that of all runs of a call one commits: the row which says that the call is done has
its id as a key. A run that failed looks for that row before anything else is made of it, since its
own commit may have succeeded without an answer, or another run's may have.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from time import time
from typing import Any

from ..adapters.fetching import Wanted
from ..adapters.plugins import Adapter, Adapters
from ..adapters.statements import Database, Run, Transaction
from ..brokers import Outcome, Outgoing
from ..config.settings import Config
from ..errors import (
    ConfigurationError,
    DeletedModelError,
    PayloadTooLarge,
    ReferenceUnavailable,
    UnsavedModelError,
)
from ..sending import tables
from ..sending.commits import Atomic, dispatching_in
from ..sending.following import NONE, next_call
from ..tasks.task import Task
from ..wire.reference import Ref
from . import outcomes
from .jobs import Job
from .outcomes import Verdict
from .postponing import is_outage

logger = logging.getLogger(__name__)

#: How long a database may take to say whether a call is done whose run has failed.
LOOK_SECONDS = 10.0

_unanswered: set[asyncio.Task[Any]] = set()  # an event loop holds its tasks weakly


class Decided(Exception):
    """Rolls a run back whose verdict is known."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.word)
        self.verdict = verdict


@dataclass(slots=True)
class AtomicRun:
    """A run of an atomic task in its open transaction.

    Attributes:
        verdict: What the run comes to if its transaction commits.
        following: The call that follows then, which is in the outbox.
    """

    config: Config
    adapters: Adapters
    job: Job
    adapter: Adapter
    transaction: Transaction
    verdict: Verdict | None = None
    following: Outgoing | None = None

    async def look(self) -> None:
        """Look whether the call is done.

        Raises:
            Decided: It is.
            ConfigurationError: The table that says so cannot be read.
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
        """Say in the transaction that the call is done, and what it returned.

        Raises:
            Decided: The value cannot be kept.
        """
        run, message_id = self.transaction.run, self.job.message.id
        # First, since it gives new rows their keys, which the value may hold.
        await run(tables.done(message_id, time()))
        verdict = outcomes.succeeded(self.config, self.adapters, self.job, value)
        if verdict.word != "succeeded":
            raise Decided(verdict)
        if verdict.outcome.result is not None:
            await run(tables.with_result(message_id, verdict.outcome.result))
        if self.job.flow.then:
            await self._keep_next(verdict)
        self.verdict = verdict

    async def _keep_next(self, verdict: Verdict) -> None:
        """Put the call that follows into the outbox.

        Raises:
            Decided: It is too large.
        """
        config, job = self.config, self.job
        result = NONE if verdict.handed_on is None else verdict.handed_on
        try:
            self.following = next_call(
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
        for statement in tables.insertion((self.following,)):
            await self.transaction.run(statement)


@asynccontextmanager
async def atomic_run(
    config: Config, adapters: Adapters, job: Job, wanted: Wanted | None
) -> AsyncIterator[AtomicRun]:
    """The transaction of one run, committed at the end.

    Raises:
        Decided: The call is done.
    """
    refs = wanted.rows if wanted is not None else ()
    adapter, begin = _begin(adapters, job.task, job.options.atomic, refs)
    async with begin as transaction:
        run = AtomicRun(config, adapters, job, adapter, transaction)
        await run.look()
        job.atomic = run
        with dispatching_in(Atomic(adapter, transaction.target)):
            yield run


@asynccontextmanager
async def executed(
    adapters: Adapters, task: Task[Any, Any], target: object, arguments: Iterable[object]
) -> AsyncIterator[None]:
    """The transaction of a call that is run without a queue, so that nothing says that it is done.

    Args:
        arguments: Of the call.
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
    config: Config, adapters: Adapters, job: Job, error: BaseException
) -> Verdict | None:
    """What the run of an atomic task that raised has come to, if the error does not decide it."""
    if isinstance(error, Decided):
        return error.verdict
    if isinstance(error, ReferenceUnavailable):
        return None  # it is run again, and looks then
    if job.atomic is None:
        if isinstance(error, ConfigurationError):
            return None
        # A row is gone, for example: a run that is done may have deleted it.
        return await verdict_if_done_anywhere(config, adapters, job)
    return await _looked_up(
        config, adapters, job, [(job.atomic.adapter, job.atomic.transaction.database)]
    )


async def verdict_if_done_anywhere(config: Config, adapters: Adapters, job: Job) -> Verdict | None:
    """The same where only the databases know: for a run in a process that is gone, for example."""
    found = []
    for adapter in adapters.with_hook("atomic_transaction"):
        found += [(adapter, database) for database in (adapter.databases or tuple)()]
    return await _looked_up(config, adapters, job, found)


async def _looked_up(
    config: Config, adapters: Adapters, job: Job, places: Sequence[tuple[Adapter, Database]]
) -> Verdict | None:
    for adapter, database in places:
        try:
            verdict = await _in_time(_asked(adapter, database, job))
        except Exception as e:
            is_silent = isinstance(e, TimeoutError) or is_outage(adapters, job, e)
            if len(places) > 1 and not is_silent:
                continue  # of several databases, some may have none of these tables
            # To retry it would use up an attempt for what may be done; to wait costs nothing.
            logger.exception("it is not known whether a call is done", extra={"id": job.message.id})
            unknown = ReferenceUnavailable(f"{database.name} does not say whether the call is done")
            unknown.__cause__ = e
            return outcomes.failed(config, adapters, job, unknown)
        if verdict is not None:
            return verdict
    return None


async def _asked(adapter: Adapter, database: Database, job: Job) -> Verdict | None:
    assert adapter.own_transaction is not None
    async with adapter.own_transaction(database) as run:
        return await _done(job, run)


async def _in_time(asking: Coroutine[Any, Any, Verdict | None]) -> Verdict | None:
    """Wait for an answer, but for no longer than that; also not for the end of who asks.

    That one may be in a thread, which ends when the database answers. Until then its run has a
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
        task.exception()  # taken, so that nobody is told: it has been said that it is not known


async def _done(job: Job, run: Run) -> Verdict | None:
    rows = await run(tables.done_result(job.message.id))
    if not rows:
        return None
    logger.info("a call came again that is done", extra={"id": job.message.id})
    result = rows[0][0]
    if result is None or job.options.result_ttl is None:
        return Verdict(Outcome(job.delivery), "succeeded")
    outcome = Outcome(job.delivery, result=bytes(result), result_ttl=job.options.result_ttl)
    return Verdict(outcome, "succeeded")


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
        orms: The adapters of the task's model instances.
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
    """Refuse atomic tasks that no installed adapter can run, once every module has been imported.

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

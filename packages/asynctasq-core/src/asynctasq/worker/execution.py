"""Runs one call inside its adapters' scopes, on the event loop or in a thread.

Owns the order of steps around a run: enter scopes, fetch rows that need the scope, decode the
arguments with their instances, run the task; all within one deadline. Whatever happens becomes one
verdict.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from time import time
from typing import Any

from ..adapters.fetching import Fetched, Wanted, fetch_in_scope
from ..adapters.plugins import Adapters, installed
from ..adapters.scopes import enter_thread_scopes, scoped_adapters, task_scopes, within
from ..app import current
from ..brokers import Delivery
from ..config.settings import Config
from ..errors import TaskCancelled, TaskTimeout, UnknownArguments
from ..sending.joining import Joining
from ..tasks import runtime
from ..tasks.annotations import Annotations, DeclaredLoading
from ..tasks.call import Call
from ..tasks.current import caller_waits, current_run
from ..wire.decoding import decode_arguments, holds_references, read_arguments
from ..wire.message import Message, new_id
from ..wire.reference import Ref
from . import outcomes
from .atomic import atomic_run, executed, verdict_if_done, verdict_if_done_anywhere
from .jobs import Job
from .outcomes import Verdict
from .rows import is_being_cancelled
from .threads import run_in_thread

logger = logging.getLogger(__name__)


def wanted_by(job: Job) -> Wanted | None:
    """The references in the job's arguments; `None` if there are none.

    Raises:
        InvalidMessage: The payload is damaged.
        InvalidReference: One of the references is malformed.
    """
    payload = job.message.payload
    if not holds_references(payload):
        return None
    annotations, rule, wanted = job.task.annotations, job.options.on_missing, Wanted()
    job.arguments = read_arguments(payload)
    named = [(annotations.parameter(a), refs) for a, refs in job.arguments.references]
    try:
        _choose(annotations, named)
    except Exception as e:  # noqa: BLE001 - finding a class may import the application's code
        return Wanted(error=e)
    for name, refs in named:
        declared = annotations.declared.get(name, _NOTHING)
        for ref in refs:
            if name in annotations.parts:
                declared = annotations.chosen[name, ref.model]
            wanted.add(ref, declared.options, declared.on_missing or rule)
    return wanted if wanted.places else None


def _choose(annotations: Annotations, named: Sequence[tuple[str, list[Ref]]]) -> None:
    """Find out what a parameter's nested annotations say about each class in it."""
    for name, refs in named:
        if name in annotations.parts:
            for path in {ref.model for ref in refs}:
                annotations.declared_for(name, path, installed().is_model_class)


_NOTHING = DeclaredLoading()


class Runner:
    """Runs jobs.

    Args:
        threads: For `def` tasks.
        joining: Settles atomic tasks in their transactions, if the broker can be in their database.

    Attributes:
        scoped: The adapters that put a scope around each run.
    """

    def __init__(
        self,
        config: Config,
        adapters: Adapters,
        threads: Executor,
        joining: Joining | None = None,
    ) -> None:
        self.config = config
        self.adapters = adapters
        self.joining = joining
        self.threads = threads
        self.scoped = scoped_adapters(adapters)

    async def run(
        self, job: Job, wanted: Wanted | None = None, fetched: Fetched | None = None
    ) -> Verdict:
        """Run a job whose rows, if any, have been fetched; raises nothing unless cancelled."""
        current_run.set(job)
        try:
            if job.deadline is not None:
                value = await self._in_time(job, wanted, fetched)
            elif wanted is None and not self.scoped and not job.options.atomic:
                value = await self._call(job, ())
            else:
                value = await self._call_in_scope(job, wanted, fetched)
        except BaseException as e:
            # User code's own SystemExit or CancelledError must not stop a worker.
            if isinstance(e, asyncio.CancelledError) and is_being_cancelled():
                raise
            return await self._failed(job, e)
        if job.atomic is not None and job.atomic.verdict is not None:
            return job.atomic.verdict
        return outcomes.succeeded(self.config, self.adapters, job, value)

    async def _in_time(self, job: Job, wanted: Wanted | None, fetched: Fetched | None) -> Any:
        try:
            async with asyncio.timeout_at(job.deadline) as limit:
                return await self._call_in_scope(job, wanted, fetched, limit)
        except TimeoutError as e:
            if not limit.expired():
                raise  # the task's own
            timeout = job.options.timeout
            raise TaskTimeout(f"{job.task.name} ran longer than {timeout} s") from e

    async def _call_in_scope(
        self,
        job: Job,
        wanted: Wanted | None,
        fetched: Fetched | None,
        limit: asyncio.Timeout | None = None,
    ) -> Any:
        if fetched is not None and fetched.error is not None:
            raise fetched.error
        scopes = task_scopes(self.scoped, job.message, fetched)
        return await within(scopes, lambda: self._call_inside(job, wanted, fetched, limit))

    async def _call_inside(
        self,
        job: Job,
        wanted: Wanted | None,
        fetched: Fetched | None,
        limit: asyncio.Timeout | None,
    ) -> Any:
        if not job.options.atomic:
            value = await self._call_with_rows(job, wanted, fetched)
            _let_end(job, limit)
            return value
        async with atomic_run(self.config, self.adapters, job, wanted, self.joining) as run:
            value = await self._call_with_rows(job, wanted, fetched)
            _let_end(job, limit)
            await run.end(value)
        return value

    async def _call_with_rows(
        self, job: Job, wanted: Wanted | None, fetched: Fetched | None
    ) -> Any:
        if wanted is None or fetched is None:
            return await self._call(job, ())
        if wanted.in_task_scope:
            await self._fetch_in_scope(wanted, fetched)
        instances = wanted.instances(fetched.rows)
        if not fetched.is_lazy:
            return await self._call(job, instances, fetched)
        from ..adapters.lazy import drive

        async def call() -> Any:
            # Decode inside `drive`: building a set of lazy objects hashes and so fetches them.
            return await self._call(job, instances, fetched)

        return await drive(call())

    async def _fetch_in_scope(self, wanted: Wanted, fetched: Fetched) -> None:
        inside = await fetch_in_scope(self.adapters, wanted)
        if inside.error is not None:
            raise inside.error
        fetched.is_lazy |= inside.is_lazy
        for i, row in enumerate(inside.rows):
            if row is not None:
                fetched.rows[i], fetched.owners[i] = row, inside.owners[i]

    def _call(
        self, job: Job, instances: Sequence[object], fetched: Fetched | None = None
    ) -> Awaitable[Any]:
        """Decode the arguments and start the task; not a coroutine itself, which saves one."""
        task, known = job.task, job.task.annotations.types
        if job.arguments is not None:
            args, kwargs = job.arguments.with_instances(known, instances)
        else:
            args, kwargs = decode_arguments(job.message.payload, known)
        try:
            task.check_arguments(args, kwargs)
        except TypeError as e:
            raise UnknownArguments(f"the arguments do not fit {task.name}: {e}") from e
        function: Callable[..., Any] = task.function
        if task.cls is not None:
            job.instance = task.cls(*args, **kwargs)
            function, args, kwargs = job.instance.execute, [], {}
        return self._started(job, function, args, kwargs, fetched)

    def _started(
        self,
        job: Job,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        fetched: Fetched | None = None,
    ) -> Awaitable[Any]:
        job.has_begun = True
        if job.task.is_async:
            running: Awaitable[Any] = function(*args, **kwargs)
            return running

        def run() -> Any:
            with ExitStack() as stack:
                enter_thread_scopes(self.scoped, job.message, fetched, stack)
                value = function(*args, **kwargs)
            if inspect.iscoroutine(value):
                value.close()
                raise TypeError(
                    f"{job.task.name} is a `def` that returned a coroutine, which nobody awaits: "
                    f"declare it `async def`"
                )
            return value

        return run_in_thread(self.threads, run)

    async def _failed(self, job: Job, error: BaseException) -> Verdict:
        if job.options.atomic:
            known = await verdict_if_done(self.config, self.adapters, job, error, self.joining)
            if known is not None:
                return known
        verdict = outcomes.postponed(self.config, self.adapters, job, error)
        if verdict is None:
            may_retry = True
            if job.instance is not None and outcomes.will_retry(job, error):
                may_retry = await self._ask(job, "should_retry", error, default=True)
            verdict = outcomes.ended(self.config, self.adapters, job, error, may_retry=may_retry)
        if job.instance is not None and verdict.word == "dead":
            await self._ask(job, "failed", error, default=None)
        return verdict

    async def cancelled(self, job: Job) -> Verdict:
        """End a run whose call was cancelled, unless an atomic task's commit was quicker."""
        if job.options.atomic:
            known = await verdict_if_done_anywhere(self.config, self.adapters, job, self.joining)
            if known is not None:
                return known
        if job.instance is not None:
            error = TaskCancelled(f"{job.task.name} was cancelled while it ran")
            await self._ask(job, "failed", error, default=None)
        return outcomes.cancelled(self.config, job)

    async def _ask(self, job: Job, hook: str, error: BaseException, default: Any) -> Any:
        """Call a hook of a class-based task; a failure in it is logged and changes nothing."""
        try:
            method = getattr(job.instance, hook)
            if job.task.is_async:
                answer = method(error)
                return await answer if inspect.isawaitable(answer) else answer
            return await run_in_thread(self.threads, lambda: method(error))
        except BaseException as e:
            if isinstance(e, asyncio.CancelledError) and is_being_cancelled():
                raise
            logger.exception("%s() of a task failed", hook, extra={"task": job.task.name})
            return default


def _let_end(job: Job, limit: asyncio.Timeout | None) -> None:
    """Lift the deadline: the task has ended, so do not cancel leaving its scope or its commit."""
    if limit is not None:
        if not limit.expired():
            limit.reschedule(None)
        _note_overrun(job)


def _note_overrun(job: Job) -> None:
    """Warn if a task ended after its deadline: it blocked the loop or ignored its cancellation.

    Its outcome stands, since failing it now would only do the work twice.
    """
    assert job.deadline is not None
    over = asyncio.get_running_loop().time() - job.deadline
    if over > 0:
        fields = {"task": job.task.name, "id": job.message.id, "timeout": job.options.timeout}
        logger.warning(
            "a task ran past its timeout: it blocked the event loop or ignored its cancellation",
            extra={**fields, "seconds_over": round(over, 3)},
        )


async def execute_call(call: Call[Any]) -> Any:
    """Run a call here and now, with its arguments as they are and scopes as in a worker."""
    app, task = current(), call.task
    message = Message(new_id(), task.name, b"", time(), headers=call.headers or {})
    delivery = Delivery("", message.id, b"", 1, None)
    job = Job(message, delivery, task, call.options(app.config.task_defaults))
    token, waits = current_run.set(job), caller_waits.set(True)
    try:
        with ThreadPoolExecutor(1, "asynctasq-execute") as threads:
            runner = Runner(app.config, app.adapters, threads)
            return await _executed(call, job, runner)
    finally:
        caller_waits.reset(waits)
        current_run.reset(token)


runtime.execute = execute_call


async def _executed(call: Call[Any], job: Job, runner: Runner) -> Any:
    async def run() -> Any:
        function: Callable[..., Any] = job.task.function
        args, kwargs = call.args, call.kwargs
        if job.task.cls is not None:
            function, args, kwargs = job.task.cls(*args, **kwargs).execute, (), {}
        if not job.options.atomic:
            return await runner._started(job, function, args, kwargs)
        arguments = (*call.args, *call.kwargs.values())
        async with executed(runner.adapters, job.task, job.options.atomic, arguments):
            return await runner._started(job, function, args, kwargs)

    return await within(task_scopes(runner.scoped, job.message, None), run)

"""Tasks with `process=True`: the worker's side, and what their child processes do.

A child gets the message as it came from the queue, fetches the rows itself and reaches the verdict,
so no argument is pickled and no connection is shared.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, replace

import msgpack

from ..adapters.fetching import fetch
from ..adapters.plugins import Adapters
from ..app import adopt, current
from ..brokers import Action, Delivery, Outcome
from ..config.settings import Config
from ..errors import MessageError, TaskCrashed, TaskTimeout
from ..loading import load_modules
from ..sending.joining import Joining
from ..sending.progress import Progress
from ..wire.results import (
    decode_stored,
    encode_error,
    error_in,
    read_result,
    references_in,
)
from . import outcomes
from .atomic import verdict_if_done_anywhere
from .checkpoints import load_checkpoint, may_have_checkpoint
from .child import stopping
from .child_logs import log_here
from .execution import Runner, wanted_by
from .jobs import Job, recognise
from .outcomes import Verdict
from .processes import ProcessPool


class ProcessTasks:
    """The children of one worker.

    Args:
        modules: Modules that each child imports.
        size: Maximum number of children.
        max_tasks: Replace a child after this many tasks.
        joining: The worker's, if its broker can be in a database of the application.
    """

    def __init__(
        self,
        config: Config,
        adapters: Adapters,
        modules: Sequence[str],
        size: int,
        max_tasks: int | None,
        joining: Joining | None = None,
    ) -> None:
        self._joining = joining
        self._config = config
        self._adapters = adapters
        without_adapters = replace(config, adapter_options={})
        greeting = msgpack.packb((tuple(modules), pickle.dumps(without_adapters)))
        self._pool = ProcessPool(size, _start, greeting, max_calls=max_tasks, log=log_here)

    async def run(self, job: Job) -> Verdict:
        """Run a job in a child; if the child dies, that is the task's failure."""
        try:
            delivery = job.delivery
            joins = job.options.atomic and self._joining is not None
            tag = delivery.tag if joins else None
            request = [delivery.queue, delivery.id, delivery.body, delivery.deliveries, tag]
            reply = await self._pool.run(msgpack.packb(request), job.options.timeout)
        except (TaskCrashed, TaskTimeout) as e:
            error = type(e)(f"{job.task.name}: {e}")
            if job.options.atomic:
                known = await verdict_if_done_anywhere(
                    self._config, self._adapters, job, self._joining
                )
                if known is not None:
                    return known
            return outcomes.failed(self._config, self._adapters, job, error)
        word, error_text, *rest = msgpack.unpackb(reply)
        if not rest:
            refusal = MessageError(f"{job.task.name}: its process refused it: {error_text}")
            return outcomes.failed(self._config, self._adapters, job, refusal)
        job.message.headers, raised, is_expected, is_settled, handed_on, *ended = rest
        job.has_checkpoint, told, action, *outcome = ended
        job.progress = told and Progress(*told)
        verdict = Verdict(Outcome(job.delivery, Action(action), *outcome), word, error_text)
        verdict.is_expected, verdict.handed_on = is_expected, handed_on
        verdict.is_settled = is_settled
        if raised is not None:
            message_id = job.message.id
            verdict.exception = error_in(read_result(raised, (), message_id, job.task.name))
        elif verdict.outcome.result is not None and self._adapters.with_hook("run_ended"):
            verdict.value = self._value(job, verdict.outcome.result)
        return verdict

    def _value(self, job: Job, result: bytes) -> object:
        """What the task returned, read from its kept result; `None` if it holds model instances."""
        name = job.task.name
        stored = read_result(result, self._config.signing_key, job.message.id, name).get("value")
        if stored is None or references_in(stored, name):
            return None
        return decode_stored(stored, job.task.result_annotations.types, name)

    def tell_stopping(self) -> None:
        """Make `is_stopping` true in the children."""
        self._pool.tell_stopping()

    def kill(self) -> None:
        """Kill the children and whatever they started; may be called in any thread."""
        self._pool.kill()

    async def close(self) -> None:
        """End the children."""
        await self._pool.close()


def _start(greeting: bytes) -> Callable[[bytes], bytes]:
    """In a child: import the application, and return the function that serves calls."""
    modules, config = msgpack.unpackb(greeting)
    load_modules(modules)
    # Only now: adapters may have to prepare the import of what the configuration names.
    adopt(pickle.loads(config))
    runner = asyncio.Runner()
    return lambda request: runner.run(_serve(request))


async def _serve(request: bytes) -> bytes:
    queue, message_id, body, deliveries, tag = msgpack.unpackb(request)
    config, adapters = current().config, current().adapters
    try:
        job = recognise(Delivery(queue, message_id, body, deliveries, tag), config)
    except MessageError as e:  # the child has other modules or keys than the worker
        refusal: bytes = msgpack.packb(["refused", f"{type(e).__name__}: {e}"])
        return refusal
    job.options = replace(job.options, timeout=None)  # the worker keeps the time
    job.is_stopping = stopping.is_set
    if may_have_checkpoint(job):
        await load_checkpoint(job, current().open_broker(), config)
    with ThreadPoolExecutor(1, "asynctasq") as threads:
        runner = Runner(config, adapters, threads, current().joining)
        try:
            wanted = wanted_by(job)
        except Exception as e:  # noqa: BLE001 - whatever the bytes did is their own fault
            verdict = outcomes.dead(config, adapters, job, e, "the message cannot be run")
        else:
            fetched = (await fetch(adapters, [wanted]))[0] if wanted is not None else None
            verdict = await runner.run(job, wanted, fetched)
    return _packed(config, adapters, job, verdict)


def _packed(config: Config, adapters: Adapters, job: Job, verdict: Verdict) -> bytes:
    outcome = verdict.outcome
    packed: bytes = msgpack.packb(
        [
            verdict.word,
            verdict.error,
            job.message.headers,  # for listeners in the worker
            _raised(config, adapters, verdict),
            verdict.is_expected,
            verdict.is_settled,
            verdict.handed_on,
            job.has_checkpoint,
            job.progress and astuple(job.progress),
            outcome.action.value,
            outcome.body,
            outcome.delay,
            outcome.info,
            outcome.result,
            outcome.result_ttl,
        ],
        unicode_errors="backslashreplace",
    )
    return packed


def _raised(config: Config, adapters: Adapters, verdict: Verdict) -> bytes | None:
    """The error, encoded for listeners in the worker."""
    error, message_id = verdict.exception, verdict.outcome.delivery.id
    if error is None:
        return None
    trace, most = outcomes.traceback_text(error), config.max_payload_bytes
    return encode_error(error, trace, adapters.plain_form, (), message_id, most)

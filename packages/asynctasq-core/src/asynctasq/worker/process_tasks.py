"""Tasks with `process=True`: the worker's end, and what their child processes do.

What travels to a child is the message as it came from the queue; the child fetches the rows itself
and comes to the verdict, so nothing is pickled and no connection is shared.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import msgpack

from ..brokers import Action, Delivery, Outcome
from ..errors import MessageError, TaskCrashed, TaskTimeout
from ..wire.results import encode_error, error_in, read_result
from . import outcomes
from .atomic import verdict_if_done_anywhere
from .child_logs import log_here
from .jobs import Job
from .outcomes import Verdict
from .processes import ProcessPool

if TYPE_CHECKING:
    from ..app import App


class ProcessTasks:
    """The children of one worker.

    Args:
        modules: What each child imports.
        size: How many there are at most.
        max_tasks: After so many tasks a child is replaced.
    """

    def __init__(self, app: App, modules: Sequence[str], size: int, max_tasks: int | None) -> None:
        self._app = app
        # Pickled here and not by the pool: unpickling may import what adapters must prepare first.
        config = pickle.dumps(replace(app.config, adapter_options={}))
        self._pool = ProcessPool(
            size, _start, tuple(modules), config, max_calls=max_tasks, log=log_here
        )

    async def run(self, job: Job) -> Verdict:
        """Run a job in a child; what the child died of is the task's failure."""
        try:
            delivery = job.delivery
            joins = job.options.atomic and self._app.joining is not None
            tag = delivery.tag if joins else None
            request = [delivery.queue, delivery.id, delivery.body, delivery.deliveries, tag]
            reply = await self._pool.run(msgpack.packb(request), job.options.timeout)
        except (TaskCrashed, TaskTimeout) as e:
            error = type(e)(f"{job.task.name}: {e}")
            if job.options.atomic and (known := await verdict_if_done_anywhere(self._app, job)):
                return known
            return outcomes.failed(self._app, job, error)
        word, error_text, *rest = msgpack.unpackb(reply)
        if not rest:
            refusal = MessageError(f"{job.task.name}: its process refused it: {error_text}")
            return outcomes.failed(self._app, job, refusal)
        raised, is_expected, is_settled, action, *outcome = rest
        verdict = Verdict(Outcome(job.delivery, Action(action), *outcome), word, error_text)
        verdict.is_expected, verdict.is_settled = is_expected, is_settled
        if raised is not None:
            message_id = job.message.id
            verdict.exception = error_in(read_result(raised, (), message_id, job.task.name))
        return verdict

    def kill(self) -> None:
        """Kill the children and what they started; called in any thread."""
        self._pool.kill()

    async def close(self) -> None:
        """End the children."""
        await self._pool.close()


def _start(modules: tuple[str, ...], config: bytes) -> Callable[[bytes], bytes]:
    """In a child: import the application, and return what serves its calls."""
    from ..app import adopt
    from ..loading import load_modules

    load_modules(modules)
    adopt(pickle.loads(config))
    runner = asyncio.Runner()
    return lambda request: runner.run(_serve(request, modules))


async def _serve(request: bytes, modules: tuple[str, ...]) -> bytes:
    from ..adapters.fetching import fetch
    from ..app import current
    from .execution import Runner, scoped_adapters, wanted_by
    from .jobs import recognise

    queue, message_id, body, deliveries, tag = msgpack.unpackb(request)
    app = current()
    try:
        job = recognise(Delivery(queue, message_id, body, deliveries, tag), app.config)
    except MessageError as e:  # its modules are not those of the worker, or its keys
        refusal: bytes = msgpack.packb(["refused", f"{type(e).__name__}: {e}"])
        return refusal
    job.options = replace(job.options, timeout=None)  # the worker keeps the time
    with ThreadPoolExecutor(1, "asynctasq") as threads:
        runner = Runner(app, threads, scoped_adapters(app))
        try:
            wanted = wanted_by(job)
        except Exception as e:  # noqa: BLE001 - whatever the bytes did is their own fault
            return _packed(app, outcomes.dead(app, job, e, "the message cannot be run"))
        fetched = (await fetch(app.adapters, [wanted]))[0] if wanted is not None else None
        return _packed(app, await runner.run(job, wanted, fetched))


def _packed(app: App, verdict: Verdict) -> bytes:
    outcome = verdict.outcome
    packed: bytes = msgpack.packb(
        [
            verdict.word,
            verdict.error,
            _raised(app, verdict),
            verdict.is_expected,
            verdict.is_settled,
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


def _raised(app: App, verdict: Verdict) -> bytes | None:
    """What went wrong, for listeners in the worker."""
    error, message_id = verdict.exception, verdict.outcome.delivery.id
    if error is None:
        return None
    trace, most = outcomes.traceback_text(error), app.config.max_payload_bytes
    return encode_error(error, trace, app.adapters.plain_form, (), message_id, most)

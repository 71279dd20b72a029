"""Decides what happens to a message after a run: done, run again later, or dead.

Owns the decisions; the broker applies them atomically.
"""

from __future__ import annotations

import logging
import traceback as tracebacks
from dataclasses import dataclass, replace
from time import time
from typing import Any

import msgpack

from ..adapters.plugins import Adapters
from ..brokers import Action, Delivery, Outcome
from ..config.settings import Config
from ..durations import is_delay
from ..errors import (
    BrokerError,
    MessageError,
    ReferenceGone,
    Retry,
    SerializationError,
    UnknownTask,
)
from ..sending.ending import RECORD_SECONDS
from ..wire.encoding import encode_value
from ..wire.message import Message, moment_ms
from ..wire.results import encode_cancelled, encode_end, encode_error, encode_result
from .causes import is_another_tasks, leaves
from .jobs import Job, recognise, task_name
from .postponing import Later, Never, is_outage, put_off, rested, unknown
from .retry import retry_delay

logger = logging.getLogger(__name__)

#: Maximum length of the traceback and the error text in a dead letter, in characters.
LONGEST_TEXT = 20_000


@dataclass(slots=True)
class Verdict:
    """An outcome, with what the log says about it.

    Attributes:
        outcome: For the broker.
        word: `succeeded`, `skipped`, `retried`, `postponed`, `released`, `cancelled` or
            `dead`.
        error: What went wrong, as text; empty if nothing did.
        value: What the task returned, if it succeeded.
        exception: The exception that ended the run, if it did not succeed.
        is_expected: Whether nobody needs to look, such as when a task postponed itself.
        is_settled: Whether the task's own transaction has applied the outcome already.
        handed_on: The encoded return value, if a call that follows takes it.
    """

    outcome: Outcome
    word: str
    error: str = ""
    value: object = None
    exception: BaseException | None = None
    is_expected: bool = False
    is_settled: bool = False
    handed_on: bytes | None = None

    @property
    def level(self) -> int:
        """The log level for it."""
        return logging.INFO if self.is_expected else _LEVELS[self.word]

    def fields(self, job: Job | None, seconds: float) -> dict[str, Any]:
        """The fields of its log record.

        Args:
            job: `None` for a delivery that was not recognised.
            seconds: How long the run took.
        """
        delivery = self.outcome.delivery
        fields: dict[str, Any] = {"id": delivery.id, "queue": delivery.queue}
        if job is not None:
            fields |= {"task": job.message.task, "attempt": job.message.attempt}
            fields["seconds"] = round(seconds, 6)
        if self.error:
            fields["error"] = self.error
        if self.outcome.action in (Action.RETRY, Action.POSTPONE):
            fields["delay_seconds"] = round(self.outcome.delay, 3)
        return fields


_LEVELS = {
    "succeeded": logging.INFO,
    "skipped": logging.WARNING,
    "retried": logging.WARNING,
    "postponed": logging.WARNING,
    "released": logging.INFO,
    "cancelled": logging.INFO,
    "dead": logging.ERROR,
}


def succeeded(config: Config, adapters: Adapters, job: Job, value: object) -> Verdict:
    """The verdict on a task that returned `value`."""
    if not job.flow.wants_result:
        return _succeeded(config, adapters, job, value)
    try:
        type_names = job.task.result_annotations.type_names
        handed_on = encode_value(
            value, "result", adapters.owner_of, type_names, adapters.plain_form
        )
    except SerializationError as e:
        return dead(config, adapters, job, e, "the result cannot be handed on")
    verdict = _succeeded(config, adapters, job, value)
    verdict.handed_on = handed_on
    return verdict


def _succeeded(config: Config, adapters: Adapters, job: Job, value: object) -> Verdict:
    ttl = job.options.result_ttl
    if ttl is None:
        outcome = Outcome(job.delivery)
        if job.options.status_ttl is not None:
            _keep_end(config, job, outcome)
        return Verdict(outcome, "succeeded", value=value)
    try:
        result = encode_result(
            value,
            job.task.result_annotations.type_names,
            adapters.owner_of,
            adapters.plain_form,
            config.signing_key,
            job.message.id,
            config.max_payload_bytes,
        )
    except SerializationError as e:  # another run would return the same type
        return dead(config, adapters, job, e, "the result cannot be kept")
    outcome = Outcome(job.delivery, result=result, result_ttl=ttl)
    return Verdict(outcome, "succeeded", value=value)


def failed(config: Config, adapters: Adapters, job: Job, error: BaseException) -> Verdict:
    """The verdict on a run that raised `error`, without asking the task's `should_retry`."""
    return postponed(config, adapters, job, error) or ended(config, adapters, job, error)


def postponed(config: Config, adapters: Adapters, job: Job, error: BaseException) -> Verdict | None:
    """The verdict on a run whose error postpones it; `None` if the error does not."""
    decided = put_off(config, adapters, job, error)
    if isinstance(decided, Never):
        return dead(config, adapters, job, error, decided.reason)
    if decided is None:
        return None
    if job.has_checkpoint:
        decided.message.resumed = 1
    return _postponed(config, job.delivery, error, decided)


def _postponed(config: Config, delivery: Delivery, error: BaseException, later: Later) -> Verdict:
    body = later.message.encode(config.signing_key)
    outcome = Outcome(delivery, Action.POSTPONE, body=body, delay=later.delay)
    is_expected = later.is_expected
    return Verdict(outcome, "postponed", _text(error), exception=error, is_expected=is_expected)


def not_recognised(config: Config, delivery: Delivery, error: Exception) -> Verdict:
    """The verdict on a delivery that does not call a task registered here."""
    if isinstance(error, UnknownTask):  # raised only after decoding and verifying the message
        message = Message.decode(delivery.body, config.signing_key, config.max_payload_bytes)
        decided = unknown(config, message)
        if isinstance(decided, Later):
            return _postponed(config, delivery, error, decided)
    return refused(config, delivery, "the message cannot be run", error)


def refused(
    config: Config, delivery: Delivery, reason: str, error: Exception | None = None
) -> Verdict:
    """The verdict on a delivery that is never run, whatever its body holds."""
    info: dict[str, object] = {
        "reason": reason,
        "error": f"{type(error).__name__}: {error}" if error else reason,
        "task": task_name(delivery, config),
    }
    verdict = dead_delivery(delivery, info)
    verdict.exception = error
    return verdict


def ended(
    config: Config, adapters: Adapters, job: Job, error: BaseException, *, may_retry: bool = True
) -> Verdict:
    """The verdict on an attempt that ended with an `error` that does not postpone it.

    Args:
        may_retry: What the task's own `should_retry` said.
    """
    own = not is_another_tasks(error)
    if own and isinstance(error, ReferenceGone):
        if (error.on_missing or job.options.on_missing) == "skip":
            return skipped(config, adapters, job, error)
        return dead(config, adapters, job, error, "a row is gone")
    if isinstance(error, MessageError) and not job.has_begun:
        return dead(config, adapters, job, error, "the message cannot be run")
    reason = _why_not_again(job, error, may_retry)
    return (
        dead(config, adapters, job, error, reason)
        if reason
        else _retried(config, adapters, job, error)
    )


def _why_not_again(job: Job, error: BaseException, may_retry: bool) -> str:
    """Why a task that raised this does not run again; empty if it does."""
    if job.message.attempt >= job.options.max_attempts:
        return "no attempt is left"
    if not _is_retried(job, error):
        return "retry_on does not name the error"
    return "" if may_retry else "should_retry said no"


def skipped(config: Config, adapters: Adapters, job: Job, error: BaseException) -> Verdict:
    """The verdict on a task whose row is gone and that asked to be skipped in that case."""
    verdict = succeeded(config, adapters, job, None)
    return replace(verdict, word="skipped", error=_text(error), exception=error)


def released(job: Job, config: Config) -> Verdict:
    """The verdict on a task that shutdown interrupted: as if it had never been taken.

    If there is a checkpoint, the message records that.
    """
    if not job.has_checkpoint or job.message.resumed:
        return Verdict(Outcome(job.delivery, Action.RELEASE), "released")
    body = replace(job.message, resumed=1).encode(config.signing_key)
    return Verdict(Outcome(job.delivery, Action.POSTPONE, body=body), "released")


def cancelled(config: Config, job: Job) -> Verdict:
    """The verdict on a run that ended because its call was cancelled."""
    outcome = Outcome(job.delivery)
    outcome.result = encode_cancelled(config.signing_key, job.message.id)
    options = job.options
    outcome.result_ttl = options.result_ttl or options.status_ttl or RECORD_SECONDS
    return Verdict(outcome, "cancelled")


def will_retry(job: Job, error: BaseException) -> bool:
    """Whether the task would be retried, so that its `should_retry` is worth asking."""
    if isinstance(error, MessageError) and not job.has_begun:
        return False
    if isinstance(error, ReferenceGone) and not is_another_tasks(error):
        return False
    return not _why_not_again(job, error, may_retry=True)


def _is_retried(job: Job, error: BaseException) -> bool:
    wanted = job.options.retry_on
    if wanted is None or isinstance(error, wanted):
        return True
    return all(isinstance(e, (wanted, Retry)) for e in leaves(error))


def _own_delay(error: BaseException) -> float | None:
    """The delay of the `Retry` that was raised, or the longest delay in a group of them."""
    # Check the value: a task or a subclass may have set the attribute to anything.
    own = (e for e in leaves(error) if isinstance(e, Retry) and not is_another_tasks(e))
    return max(filter(is_delay, (getattr(e, "delay", None) for e in own)), default=None)


def _retried(config: Config, adapters: Adapters, job: Job, error: BaseException) -> Verdict:
    message, options = job.message, job.options
    delay = retry_delay(
        message.attempt, options.retry_delay, options.retry_strategy, options.retry_jitter
    )
    own_delay = _own_delay(error)
    if own_delay is not None:
        delay = own_delay
    due_ms = moment_ms(time() + delay)
    again = replace(rested(message), attempt=message.attempt + 1, due_ms=due_ms)
    if message.outage_since_ms and is_outage(adapters, job, error):  # longer than `outage_for`
        again.outage_since_ms = message.outage_since_ms
    if job.has_checkpoint:
        again.resumed = 1
    body = again.encode(config.signing_key)
    outcome = Outcome(job.delivery, Action.RETRY, body=body, delay=delay)
    return Verdict(outcome, "retried", _text(error), exception=error)


def dead(
    config: Config, adapters: Adapters, job: Job, error: BaseException, reason: str
) -> Verdict:
    """The verdict on a call that will not run again unless somebody retries it."""
    trace = traceback_text(error)
    info = {
        "reason": reason,
        "task": job.message.task,
        "attempts": job.message.attempt,
        "error": _text(error),
        "traceback": trace,
    }
    verdict = dead_delivery(job.delivery, info)
    verdict.exception = error
    if job.has_checkpoint and not job.message.resumed:  # in case somebody retries it
        verdict.outcome.body = replace(job.message, resumed=1).encode(config.signing_key)
    if job.options.result_ttl is not None:
        verdict.outcome.result = encode_error(
            error,
            trace,
            adapters.plain_form,
            config.signing_key,
            job.message.id,
            config.max_payload_bytes,
            job.message.headers,
            job.message.attempt,
        )
        verdict.outcome.result_ttl = job.options.result_ttl
    elif job.options.status_ttl is not None:
        _keep_end(config, job, verdict.outcome)
    return verdict


def _keep_end(config: Config, job: Job, outcome: Outcome) -> None:
    """Keep how a call without a result ended."""
    is_dead = outcome.action is Action.DEAD
    outcome.result = encode_end(is_dead, config.signing_key, job.message.id)
    outcome.result_ttl = job.options.status_ttl or 0.0


def instead_of_refused(config: Config, adapters: Adapters, outcome: Outcome) -> Outcome:
    """The outcome in place of one that is too large for the broker: a dead letter."""
    delivery = outcome.delivery
    reason = f"the {'result' if outcome.action is Action.DONE else 'message'} cannot be kept"
    error = BrokerError(f"the broker takes no value of this size; {reason}")
    try:
        verdict = dead(config, adapters, recognise(delivery, config), error, reason)
    except MessageError:
        verdict = dead_delivery(delivery, {"reason": reason, "error": str(error)})
    fields = {"id": delivery.id, "queue": delivery.queue, "error": verdict.error}
    logger.error("outcome refused by the broker, task dead", extra=fields)
    return verdict.outcome


def dead_delivery(delivery: Delivery, info: dict[str, object]) -> Verdict:
    """The verdict on a delivery that cannot run, whatever its body holds."""
    info = {k: _shortened(v) if isinstance(v, str) else v for k, v in info.items()}
    info = {**info, "deliveries": delivery.deliveries, "failed_at": time()}
    packed = msgpack.packb(info, unicode_errors="backslashreplace")
    error = str(info.get("error", ""))
    return Verdict(Outcome(delivery, Action.DEAD, info=packed), "dead", error)


def _text(error: BaseException) -> str:
    return _shortened("".join(tracebacks.format_exception_only(error)).strip())


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 3] + "..."


def traceback_text(error: BaseException) -> str:
    """The error's traceback as Python prints it; only the end of a very long one."""
    text = "".join(tracebacks.format_exception(error))
    return text if len(text) <= LONGEST_TEXT else "..." + text[3 - LONGEST_TEXT :]

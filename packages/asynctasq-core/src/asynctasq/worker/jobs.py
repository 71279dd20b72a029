"""Jobs: deliveries that have been recognised as calls of registered tasks.

Owns the rule that bytes from a queue can only run what the application registered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..adapters.plugins import Adapters
from ..brokers import Delivery
from ..config.settings import Config
from ..errors import ConfigurationError, InvalidMessage, MessageError, UnknownTask
from ..sending.progress import Progress
from ..tasks.current import Run
from ..tasks.options import TaskOptions, check_task_options
from ..tasks.task import Task, registry
from ..wire.decoding import Arguments
from ..wire.flow import NO_FLOW, Flow
from ..wire.flow import decode as decode_flow
from ..wire.message import Message

if TYPE_CHECKING:
    from .atomic import AtomicRun

#: Options that a call may override; a `Call` never writes any others into a message.
OVERRIDABLE = frozenset({"max_attempts", "retry_delay", "timeout"})

#: A message's queue and id.
Key = tuple[str, str]


def _never() -> bool:
    return False


@dataclass(slots=True)
class Job(Run):
    """A delivery that has been recognised as a call of a registered task, and its run.

    Attributes:
        deadline: When its `timeout` ends, by the event loop's clock.
        slot_since: When it got its slot, by `perf_counter`.
        arguments: Its arguments, if they hold references.
        instance: The instance of a class-based task, once its `__init__` has run.
        has_begun: Whether the task's own code has started, so that what it raises is its own.
        atomic: The run of an atomic task, once its transaction has begun.
        is_cancelled: Whether somebody cancelled the call while it ran.
        progress: What it last reported of its progress, at `progress_at` by `monotonic`.
        flow: What follows it, and the batch it is part of.
        is_stopping: Whether its worker is stopping.
        has_checkpoint: Whether this run or an earlier one left a checkpoint.
        has_put: Whether the next call of its chain was put, along with a note saying so.
        has_followed: Whether it has ended and what follows it is being handled.
    """

    message: Message
    delivery: Delivery
    task: Task[Any, Any]
    options: TaskOptions
    deadline: float | None = None
    slot_since: float = 0.0
    arguments: Arguments | None = None
    instance: Any = None
    has_begun: bool = False
    atomic: AtomicRun | None = None
    is_cancelled: bool = False
    progress: Progress | None = None
    progress_at: float = float("-inf")
    is_stopping: Callable[[], bool] = _never
    has_checkpoint: bool = False
    flow: Flow = NO_FLOW
    has_put: bool = False
    has_followed: bool = False

    @property
    def key(self) -> Key:
        """The message's queue and id."""
        return (self.delivery.queue, self.delivery.id)


def recognise(delivery: Delivery, config: Config) -> Job:
    """The registered task that a delivery calls.

    Raises:
        MessageError: The bytes are not a message that may run here.
    """
    message = Message.decode(delivery.body, config.signing_key, config.max_payload_bytes)
    if message.id != delivery.id:
        raise InvalidMessage(f"the message says that its id is {message.id[:64]!r}")
    message.queue = delivery.queue
    task = registry.get(message.task)
    if task is None:
        raise UnknownTask(
            f"the worker's modules register no task {message.task[:200]!r}: start it with the "
            f"module that holds the task"
        )
    job = Job(message, delivery, task, _options(task, message, config.task_defaults))
    if message.flow:
        job.flow = decode_flow(message.flow)
    return job


def _options(task: Task[Any, Any], message: Message, defaults: Mapping[str, Any]) -> TaskOptions:
    options = task.options(defaults)
    if not message.options:
        return options
    try:
        if not message.options.keys() <= OVERRIDABLE:
            raise ConfigurationError("the message overrides options that a call cannot override")
        check_task_options(message.options, "message")
    except (ConfigurationError, TypeError) as e:
        raise InvalidMessage(str(e)) from e
    return replace(options, **message.options)


def task_name(delivery: Delivery, config: Config) -> str:
    """The task's name in a message that is not run; empty if the bytes give none."""
    try:
        return Message.decode(delivery.body, config.signing_key).task
    except MessageError:
        return ""


def declared_queues(defaults: Mapping[str, Any], adapters: Adapters) -> tuple[str, ...]:
    """`default`, then the queues that registered tasks and adapters name, alphabetically.

    Raises:
        ConfigurationError: An adapter gives a name that no queue can have.
    """
    named = {task.options(defaults).queue for task in registry.values()}
    for adapter in adapters.with_hook("queue_names"):
        for queue in adapter.queue_names():  # type: ignore[misc]
            check_task_options({"queue": queue}, f"adapter {adapter.name}")
            named.add(queue)
    return ("default", *sorted(named - {"default"}))

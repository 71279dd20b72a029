"""Pauses of tasks: how one is stored, and which calls it holds back.

A broker can hold back a whole queue by itself. It knows nothing about tasks and arguments, so
workers check these in what they have taken, and park it. An argument is compared by the text that
people see, `Order#5` for a row: it is read from the bytes, and nothing is built or fetched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..adapters.plugins import Adapters
from ..errors import ConfigurationError, SerializationError
from ..tasks.declaration import registry
from ..tasks.task import Task
from ..wire.describing import text_of, texts_by_name
from ..wire.encoding import encode_value
from ..wire.message import Message

#: Maximum size of a pause, which is stored as one of the broker's values.
LONGEST_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Pause:
    """What is held back, since when, and by whom.

    Attributes:
        queue: The queue in which calls are held back.
        task: The name of the task whose calls are held back; empty for the whole queue.
        where: Only calls with these arguments, as text by parameter name.
        since: Unix time in seconds.
        by: Who paused it.
    """

    queue: str
    task: str = ""
    where: Mapping[str, str] = field(default_factory=dict)
    since: float = 0.0
    by: str = ""

    @property
    def name(self) -> str:
        """Its name for the broker: equal pauses have equal names, and others different ones."""
        pairs = [f"{_bare(k)}={_bare(v)}" for k, v in sorted(self.where.items())]
        return " ".join([_bare(self.task), *pairs])

    @property
    def what(self) -> str:
        """What is held back, for people."""
        arguments = ", ".join(f"{name}={text}" for name, text in sorted(self.where.items()))
        return f"{self.task}({arguments})" if arguments else self.task or "the queue"

    def encode(self) -> bytes:
        """Its value for the broker."""
        kept = {"task": self.task, "where": self.where, "since": self.since, "by": self.by}
        return json.dumps(kept).encode()

    @classmethod
    def decode(cls, queue: str, value: bytes) -> Pause | None:
        """The pause in these bytes, which anybody may have written; `None` if they hold none."""
        try:
            kept = json.loads(value if len(value) <= LONGEST_BYTES else b"")
            pause = cls(queue, kept["task"], kept["where"], kept["since"], kept["by"])
            texts = (pause.task, pause.by, *pause.where, *pause.where.values())
            is_sound = all(isinstance(text, str) for text in texts)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        return pause if is_sound and isinstance(pause.since, int | float) else None

    def is_for(self, message: Message, adapters: Adapters) -> bool:
        """Whether it holds back a message of its queue."""
        if message.task != self.task:
            return False
        if not self.where:
            return True
        task = registry.get(message.task)
        try:
            texts = texts_by_name(message.payload, task.parameter_names if task else ())
        except ValueError:
            return False
        for name, wanted in self.where.items():
            text = texts[name] if name in texts else _default(task, name, adapters)
            if text != wanted:
                return False
        return True


def _bare(text: str) -> str:
    """Text without bare spaces and equals signs."""
    return text.replace("\\", r"\\").replace(" ", r"\ ").replace("=", r"\=")


def _default(task: Task[..., Any] | None, name: str, adapters: Adapters) -> str | None:
    """The text of a parameter's default; `None` if there is none, or it cannot travel."""
    parameter = task.signature.parameters.get(name) if task is not None else None
    if parameter is None or parameter.default is parameter.empty:
        return None
    try:
        return text_for(parameter.default, name, adapters)
    except SerializationError:
        return None


def text_for(value: object, name: str, adapters: Adapters) -> str:
    """The text for an argument in a pause; text stands for itself.

    Raises:
        SerializationError: The value cannot travel.
    """
    if isinstance(value, str):
        return value
    return text_of(encode_value(value, name, adapters.owner_of, {}, adapters.plain_form))


def check_where(task: Task[..., Any], where: Mapping[str, object]) -> None:
    """Check that the task has these parameters.

    Raises:
        ConfigurationError: It has no such parameter.
    """
    parameters = task.signature.parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    if unknown := sorted(where.keys() - parameters.keys()):
        raise ConfigurationError(
            f"{task.name} has no parameter {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(parameters) or 'none'}"
        )

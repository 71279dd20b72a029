"""Which dead letters a page or a form selects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from asynctasq.deadletters import Filter

#: The fields of a filter, in the order in which people fill them in.
NAMES = ("queue", "task", "error", "reason", "arguments")


@dataclass(frozen=True, slots=True)
class Chosen:
    """A filter as written in an address or a form.

    Attributes:
        texts: The fields that were filled in, by name.
    """

    texts: dict[str, str]

    @classmethod
    def of(cls, value: Callable[[str], str]) -> Chosen:
        """The filter in the values of its fields."""
        return cls({name: text for name in NAMES if (text := value(name))})

    @property
    def queue(self) -> str | None:
        """The queue, if one was named."""
        return self.texts.get("queue")

    @property
    def where(self) -> Filter | None:
        """The other conditions; `None` if there are none."""
        asked = {name: text for name, text in self.texts.items() if name != "queue"}
        if not asked:
            return None
        task, error = asked.get("task"), asked.get("error")
        reason, arguments = asked.get("reason"), asked.get("arguments")
        return Filter(task=task, error=error, reason=reason, arguments=arguments)

    def __str__(self) -> str:
        said = [f"{name} {text!r}" for name, text in self.texts.items()]
        return " with " + ", ".join(said) if said else ""

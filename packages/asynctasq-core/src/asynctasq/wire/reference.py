"""The reference: travels in place of a model instance, with nothing of its row but the key."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .class_paths import find_class


@dataclass(frozen=True, slots=True)
class Ref:
    """A row of a model: which adapter, which class, which key, which database.

    Attributes:
        orm: The adapter's entry-point name; core fills it in.
        model: The class's `module.qualname`, from `class_path`.
        pk: The primary key; a tuple if it is composite.
        db: The database's alias; `None` for the default database.
        options: Loading options from the task's annotations; never on the wire.
    """

    model: str
    pk: Any
    db: str | None = None
    orm: str = ""
    options: tuple[Any, ...] = field(default=(), hash=False)

    def model_class(self) -> type:
        """The class; when core asks for rows, it has checked that it is the adapter's model.

        Raises:
            InvalidReference: The application has no such class.
        """
        return find_class(self.model)

    @property
    def in_task_scope(self) -> bool:
        """Whether an option, such as a lock, needs the row fetched inside the task's scope."""
        options = self.options
        return bool(options) and any(getattr(o, "in_task_scope", False) for o in options)

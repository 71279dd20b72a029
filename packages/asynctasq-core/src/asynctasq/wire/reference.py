"""The reference: what travels in place of a model instance, and nothing of its row but the key."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .class_paths import find_class


@dataclass(frozen=True, slots=True)
class Ref:
    """A row of a model: which adapter, which class, which key, which database.

    Attributes:
        orm: The adapter's entry-point name; filled in by core.
        model: `module.qualname` of the class, from `class_path`.
        pk: The primary key; a tuple where it is composite.
        db: The database's alias where it is not the default one.
        options: Metadata of the task's annotations that loads the row; never on the wire.
    """

    model: str
    pk: Any
    db: str | None = None
    orm: str = ""
    options: tuple[Any, ...] = field(default=(), hash=False)

    def model_class(self) -> type:
        """The class, already checked to be a model of the adapter when core asks for rows.

        Raises:
            InvalidReference: There is no such class among those that may be used.
        """
        return find_class(self.model)

    @property
    def in_task_scope(self) -> bool:
        """Whether an option wants the row fetched inside the task's scope, as a lock does."""
        options = self.options
        return bool(options) and any(getattr(o, "in_task_scope", False) for o in options)

"""How a row is loaded for a task, declared in the annotation of the task's parameter.

Each function is the method of Django's `QuerySet` of the same name, and takes its arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django.db.models import Prefetch, QuerySet


@dataclass(frozen=True, slots=True)
class Loading:
    """One method call on the query that loads a row; rows with equal ones share a query.

    Attributes:
        kwargs: Keyword arguments as pairs.
    """

    method: str
    args: tuple[Any, ...] = field(default=(), compare=False)
    kwargs: tuple[tuple[str, Any], ...] = ()
    _compared: tuple[object, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Two `Prefetch` of one relation are equal, whatever their querysets are.
        compared = (arg if isinstance(arg, str) else id(arg) for arg in self.args)
        object.__setattr__(self, "_compared", tuple(compared))

    @property
    def in_task_scope(self) -> bool:
        """Whether the row must be fetched inside the scope of the one task that gets it."""
        return self.method == "select_for_update"

    def apply(self, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The query with this method called on it."""
        changed: QuerySet[Any] = getattr(queryset, self.method)(*self.args, **dict(self.kwargs))
        return changed


def prefetch_related(*lookups: str | Prefetch[Any, Any, Any]) -> Loading:
    """Load related rows of all rows of a batch with one more query for each relation."""
    return Loading("prefetch_related", lookups)


def select_related(*fields: str) -> Loading:
    """Load the rows that these foreign keys point to in the same query."""
    return Loading("select_related", fields)


def only(*fields: str) -> Loading:
    """Load these columns alone; others are fetched when they are first read."""
    return Loading("only", fields)


def defer(*fields: str) -> Loading:
    """Load all columns but these; they are fetched when they are first read."""
    return Loading("defer", fields)


def using(alias: str) -> Loading:
    """Load from this database, wherever the instance that was dispatched came from."""
    return Loading("using", (alias,))


def select_for_update(
    *, nowait: bool = False, skip_locked: bool = False, of: tuple[str, ...] = ()
) -> Loading:
    """Lock the row while the task runs.

    A transaction is opened for the task in the thread of its ORM calls. It is committed when the
    task returns and rolled back when it raises.

    Args:
        nowait: Retry the task later instead of waiting for another transaction's lock.
        skip_locked: Treat a row that is locked as one that is gone.
        of: Relations of `select_related` whose rows are locked too.
    """
    given = {"nowait": nowait, "skip_locked": skip_locked, "of": of}
    return Loading("select_for_update", (), tuple(given.items()))

"""How a row is loaded for a task, declared in the annotation of the task's parameter.

Each function stands for the method of Django's `QuerySet` of the same name and takes its arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django.db.models import Prefetch, QuerySet


@dataclass(frozen=True, slots=True)
class Loading:
    """One method call on the query that loads a row; rows with equal calls share a query.

    Attributes:
        kwargs: Keyword arguments as pairs.
    """

    method: str
    args: tuple[Any, ...] = field(default=(), compare=False)
    kwargs: tuple[tuple[str, Any], ...] = ()
    _compared: tuple[object, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # By identity: Django calls two `Prefetch` of one relation equal whatever their querysets.
        compared = (arg if isinstance(arg, str) else id(arg) for arg in self.args)
        object.__setattr__(self, "_compared", tuple(compared))

    @property
    def in_task_scope(self) -> bool:
        """Whether the row must be fetched inside the scope of the task that gets it."""
        return self.method == "select_for_update"

    def apply(self, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The query with this method called on it."""
        changed: QuerySet[Any] = getattr(queryset, self.method)(*self.args, **dict(self.kwargs))
        return changed


def prefetch_related(*lookups: str | Prefetch[Any, Any, Any]) -> Loading:
    """Load the related rows of a whole batch with one more query per relation."""
    return Loading("prefetch_related", lookups)


def select_related(*fields: str) -> Loading:
    """Load the rows that these foreign keys point to in the same query."""
    return Loading("select_related", fields)


def only(*fields: str) -> Loading:
    """Load only these columns; others are fetched when first read."""
    return Loading("only", fields)


def defer(*fields: str) -> Loading:
    """Load all columns except these, which are fetched when first read."""
    return Loading("defer", fields)


def using(alias: str) -> Loading:
    """Load from this database, wherever the dispatched instance came from."""
    return Loading("using", (alias,))


def select_for_update(
    *, nowait: bool = False, skip_locked: bool = False, of: tuple[str, ...] = ()
) -> Loading:
    """Lock the row while the task runs.

    A transaction is opened for the task in the thread of its ORM calls. It commits when the task
    returns and rolls back when the task raises.

    Args:
        nowait: Retry the task later instead of waiting for another transaction's lock.
        skip_locked: Treat a locked row as missing.
        of: Relations of `select_related` whose rows to lock as well.
    """
    given = {"nowait": nowait, "skip_locked": skip_locked, "of": of}
    return Loading("select_for_update", (), tuple(given.items()))

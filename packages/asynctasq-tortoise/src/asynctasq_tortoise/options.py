"""How a task wants its rows loaded: metadata in the annotation of a parameter.

    async def ship(order: Annotated[Order, prefetch_related("lines"), select_for_update()]): ...

None of it travels; the worker reads it from the task's own signature.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class LoadOption:
    """A method to call on the query before the rows are fetched.

    Attributes:
        in_task_scope: Whether to fetch the rows separately for each run, inside the task's scope,
            and not together with those of other messages.
    """

    method: str
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()
    in_task_scope: bool = False

    def apply(self, query: Any) -> Any:
        """The query with this option; functions among the arguments are called for each query."""
        args = [arg() if callable(arg) else arg for arg in self.args]
        if self.method == "only":
            args.append(query.model._meta.pk_attr)
        return getattr(query, self.method)(*args, **dict(self.kwargs))


@dataclass(frozen=True, slots=True)
class DatabaseOption:
    """Fetch through the connection with this alias."""

    alias: str


def prefetch_related(*relations: str | Callable[[], Any]) -> LoadOption:
    """Also fetch related rows, with one query per relation.

    Args:
        relations: Names, or functions that return a `Prefetch`, because a `Prefetch` itself cannot
            be made before Tortoise is initialised.
    """
    return LoadOption("prefetch_related", relations)


def select_related(*relations: str) -> LoadOption:
    """Fetch the rows that these foreign keys point to in the same query."""
    return LoadOption("select_related", relations)


def only(*fields: str) -> LoadOption:
    """Fetch only these fields and the key."""
    return LoadOption("only", fields)


def select_for_update(*, nowait: bool = False, of: tuple[str, ...] = ()) -> LoadOption:
    """Lock the row until the task ends, in a transaction that commits if the task succeeds.

    What the coroutine does on the same database belongs to that transaction. Databases without row
    locks (SQLite) give only the transaction.

    Args:
        nowait: Try again later, without using up an attempt, if the row is already locked.
        of: Tables to lock, if relations are selected too.
    """
    kwargs = (("nowait", nowait), ("of", of))
    return LoadOption("select_for_update", (), kwargs, in_task_scope=True)


def using(alias: str) -> DatabaseOption:
    """Fetch from another database, such as a replica.

    Args:
        alias: The name of a connection in Tortoise's configuration.
    """
    return DatabaseOption(alias)

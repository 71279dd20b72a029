"""How a row is loaded for a task, declared in the annotation of the task's parameter.

SQLAlchemy's own loader options (`selectinload(User.orders)`) can stand beside these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class ForUpdate:
    """`SELECT ... FOR UPDATE`, made by `for_update`; takes `Select.with_for_update`'s arguments.

    Attributes:
        in_task_scope: Tells core to fetch the row in the task's own scope, which holds the lock.
    """

    nowait: bool
    skip_locked: bool
    of: Any
    read: bool
    key_share: bool
    in_task_scope: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class ReadFrom:
    """The session factory to load a row with, made by `read_from`."""

    session_factory: Any


def for_update(
    *,
    nowait: bool = False,
    skip_locked: bool = False,
    of: Any = None,
    read: bool = False,
    key_share: bool = False,
) -> ForUpdate:
    """Lock the row in the task's own session: `account: Annotated[Account, for_update()]`.

    The lock is held until the task commits or rolls back `task_session()`, or ends. If the lock
    cannot be had (`nowait`, a deadlock, the server's lock timeout), the task is postponed without
    using up an attempt. SQLite has no such locks and ignores this.

    Args:
        nowait: Postpone the task at once instead of waiting for another transaction.
        skip_locked: Treat a locked row as missing; see the task's `on_missing`.
        of: The entities or columns whose rows to lock, if the query joins several.
        read: Lock for reading (`FOR SHARE`).
        key_share: Take the weaker lock that leaves keys free (`FOR NO KEY UPDATE`, PostgreSQL).
    """
    return ForUpdate(nowait, skip_locked, of, read, key_share)


def read_from(session_factory: Any) -> ReadFrom:
    """Load the row from another database: `user: Annotated[User, read_from(ReplicaSession)]`.

    Afterwards the instance belongs to the task's ordinary session, so writes go to the model's own
    database. A lagging replica may not have the row yet: to the task it is then missing.

    Args:
        session_factory: Anything that a model's `_asynctasq_session_factory` may be.
    """
    return ReadFrom(session_factory)

"""SQL that core writes and adapters run.

Core owns the statements, which are portable. An adapter owns the connections and the way its driver
takes parameters.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Dialect = Literal["postgresql", "mysql", "sqlite"]
Parameter = str | bytes | int | float | None


@dataclass(frozen=True, slots=True)
class Statement:
    """One SQL statement.

    Attributes:
        sql: Each `?` stands for the next parameter; it contains no other `?` and no `%`.
        parameters: The values, in order.
    """

    sql: str
    parameters: Sequence[Parameter] = ()

    def in_style(self, style: str) -> str:
        """The SQL with placeholders of the given style.

        Args:
            style: As in DB-API's `paramstyle`: `qmark`, `format` (also for `pyformat`), or
                `numeric_dollar` for `$1`.

        Raises:
            ValueError: The style is none of these.
        """
        if style == "qmark":
            return self.sql
        if style in ("format", "pyformat"):
            return self.sql.replace("?", "%s")
        if style == "numeric_dollar":
            first, *rest = self.sql.split("?")
            return first + "".join(f"${n}{part}" for n, part in enumerate(rest, 1))
        raise ValueError(f"no such style of parameters: {style!r}")

    def with_literal_bytes(self) -> Statement:
        """The statement with `bytes` as literals, for drivers that cannot escape them.

        The literals are in the syntax of MySQL, MariaDB and SQLite.
        """
        first, *rest = self.sql.split("?")
        pieces, remaining = [first], []
        for parameter, text in zip(self.parameters, rest, strict=True):
            if isinstance(parameter, bytes):
                pieces += [f"X'{parameter.hex()}'", text]
            else:
                pieces += ["?", text]
                remaining.append(parameter)
        return Statement("".join(pieces), remaining)


#: Runs a statement and returns a SELECT's rows.
Run = Callable[[Statement], Awaitable[Sequence[Sequence[Any]]]]


@dataclass(frozen=True, slots=True)
class Database:
    """One of the application's databases, as an adapter knows it.

    Attributes:
        name: Unique among the adapter's databases; shown to users, so it must not hold a password.
        dialect: The database's SQL dialect; `mysql` for MariaDB too.
        handle: What the adapter identifies it by: an alias, an engine, a connection's name.
    """

    name: str
    dialect: Dialect
    handle: Any


@dataclass(frozen=True, slots=True)
class Transaction:
    """The open transaction of an atomic task.

    Attributes:
        run: Runs a statement in it, after flushing whatever the ORM still holds back.
        target: What `after_commit` takes for this transaction.
        database: The database it is open on.
    """

    run: Run
    target: object
    database: Database

"""SQL that core writes and adapters run.

Core owns the statements, which are portable; an adapter owns connections, and the form in which its
driver takes parameters.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Dialect = Literal["postgresql", "mysql", "sqlite"]
Parameter = str | bytes | int | float | None


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement.

    Attributes:
        sql: Each `?` in it stands for the next parameter; there is no other `?` and no `%`.
        parameters: The values.
    """

    sql: str
    parameters: Sequence[Parameter] = ()

    def in_style(self, style: str) -> str:
        """The SQL with placeholders of another style.

        Args:
            style: As DB-API's `paramstyle`: `qmark`, `format` (also for `pyformat`), or
                `numeric_dollar` for `$1`.

        Raises:
            ValueError: Another style.
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
        """The same with `bytes` written into the SQL, for drivers that cannot escape them.

        As MySQL, MariaDB and SQLite write them.
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


#: Runs a statement; gives the rows of a SELECT.
Run = Callable[[Statement], Awaitable[Sequence[Sequence[Any]]]]


@dataclass(frozen=True, slots=True)
class Database:
    """A database of the application, as an adapter knows it.

    Attributes:
        name: What tells it apart among the adapter's databases; shown to users, so without a
            password.
        dialect: Of its SQL; MariaDB's is `mysql`.
        handle: The adapter's own: an alias, an engine, a connection's name.
    """

    name: str
    dialect: Dialect
    handle: Any


@dataclass(frozen=True, slots=True)
class Transaction:
    """The open transaction of an atomic task.

    Attributes:
        run: Runs a statement in it, after everything that the ORM still holds back.
        target: What `after_commit` takes for it.
        database: Where it is.
    """

    run: Run
    target: object
    database: Database

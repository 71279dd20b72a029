"""Whether the tables are there and of this version, and making them so."""

from __future__ import annotations

import pkgutil
from typing import Any

from asyncpg import exceptions
from asynctasq import BrokerError

from .address import Address

#: Of the tables and functions. These are replaced while workers run that expect the former; where
#: such cannot go on, raise `UNDERSTOOD_FROM`.
VERSION = 2
UNDERSTOOD_FROM = 1
#: From each version to the next one, what changes tables; nothing is older than the first.
_UPGRADES: dict[int, str] = {1: ""}

#: Of all who make tables in one database, one does at a time.
_LOCK = "SELECT pg_advisory_xact_lock(4702681945801342061)"
_EXISTS = "SELECT to_regclass($1) IS NOT NULL"
_STATE = "SELECT number, understood_from FROM {schema}.version"


def script(address: Address) -> str:
    """The SQL that makes everything where there is nothing."""
    return "\n".join(
        (
            f"-- {address.name}",
            f"CREATE SCHEMA IF NOT EXISTS {address.schema};",
            _filled(_read("tables.sql"), address),
            _filled(_read("functions.sql"), address),
            _filled(_read("policies.sql"), address),
            f"INSERT INTO {address.schema}.version VALUES ({VERSION}, {UNDERSTOOD_FROM});",
        )
    )


def _read(name: str) -> str:
    return (pkgutil.get_data(__package__, name) or b"").decode()


def _filled(sql: str, address: Address) -> str:
    return sql.replace("@schema@", address.schema).replace("@name@", address.config.schema)


async def ensure(connection: Any, address: Address) -> None:
    """Make the tables if there are none; those of another version are left as they are.

    Raises:
        BrokerError: They are of a version that does not fit this one.
    """
    state = await _state(connection, address)
    if state is None:
        await upgrade(connection, address)
    else:
        _check(*state, address)


async def _state(connection: Any, address: Address) -> tuple[int, int] | None:
    try:
        row = await connection.fetchrow(_STATE.format(schema=address.schema))
    except (exceptions.UndefinedTableError, exceptions.InvalidSchemaNameError):
        return None
    if row is None:
        raise BrokerError(
            f"{address.name}: its table version is empty; restore it, or drop the schema"
        )
    return row["number"], row["understood_from"]


def _check(number: int, understood_from: int, address: Address) -> None:
    if number < VERSION:
        raise BrokerError(
            f"{address.name} has tables of version {number}, this asynctasq-postgres needs "
            f"{VERSION}; run `asynctasq tables upgrade`"
        )
    if understood_from > VERSION:
        raise BrokerError(
            f"{address.name} has tables of version {number}, which this asynctasq-postgres does "
            f"not understand; upgrade it"
        )


async def upgrade(connection: Any, address: Address) -> None:
    """Make the tables, or bring them to this version, in one transaction.

    Raises:
        BrokerError: They are of a later version that does not fit this one.
    """
    schema = address.schema
    async with connection.transaction():
        await connection.execute(_LOCK)
        if not await connection.fetchval(_EXISTS, f"{schema}.version"):
            # CREATE SCHEMA IF NOT EXISTS asks for the right to, also where there is one.
            exists = "SELECT FROM pg_namespace WHERE nspname = $1"
            if await connection.fetchrow(exists, address.config.schema) is None:
                await connection.execute(f"CREATE SCHEMA {schema}")
            await connection.execute(_filled(_read("tables.sql"), address))
            await connection.execute(f"INSERT INTO {schema}.version VALUES (0, 0)")
            number = VERSION
        else:
            number, understood_from = await _state(connection, address) or (0, 0)
            if number > VERSION:
                _check(number, understood_from, address)
                return
        for step in range(number, VERSION):
            await connection.execute(_filled(_UPGRADES[step], address))
        for name in ("functions.sql", "policies.sql"):
            await connection.execute(_filled(_read(name), address))
        await connection.execute(
            f"UPDATE {schema}.version SET number = $1, understood_from = $2",
            VERSION,
            UNDERSTOOD_FROM,
        )

"""Checks that the tables exist in this version, and creates or upgrades them."""

from __future__ import annotations

import pkgutil
from typing import Any

from asynctasq import BrokerError

from .address import Address

#: Version of the tables and functions. They are replaced while workers of the previous version run;
#: if those cannot go on, raise `UNDERSTOOD_FROM`.
VERSION = 3
UNDERSTOOD_FROM = 1
#: Changes from each version to the next, except functions that only get a new body; there is none
#: before the first version.
_UPGRADES: dict[int, str] = {
    # Each is replaced by one that can be called in the same way.
    1: """
        DROP FUNCTION @schema@.take(
            integer, text[], integer, double precision, integer[], bigint[]);
        DROP FUNCTION @schema@.claim(
            integer, bigint, text[], integer, integer[], bigint[], boolean);
        DROP FUNCTION @schema@.run_line(integer, integer, integer, bigint);
    """,
    # What went line by line goes for many lines at once.
    2: """
        DROP FUNCTION IF EXISTS @schema@.run_line(integer, integer, integer, bigint, boolean);
        DROP FUNCTION IF EXISTS @schema@.give_ticket(integer);
        DROP FUNCTION IF EXISTS @schema@.look_again(integer);
        DROP FUNCTION IF EXISTS @schema@.running_of(integer, text);
        DROP FUNCTION IF EXISTS @schema@.most_of(integer, text);
        DROP FUNCTION IF EXISTS @schema@.open_rate(integer, text, integer);
        DROP FUNCTION IF EXISTS @schema@.set_opening(integer, text);
    """,
}

#: In this order, because plain SQL functions are checked when they are created.
_FUNCTIONS = ("pauses.sql", "functions.sql", "policies.sql")

#: Lets only one process at a time create tables in a database.
_LOCK = "SELECT pg_advisory_xact_lock(4702681945801342061)"
# Not `to_regclass`, which may remember from before the lock that there was no table.
_EXISTS = """
SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = 'version')
"""
_STATE = "SELECT number, understood_from FROM {schema}.version"


def script(address: Address) -> str:
    """The SQL that creates everything from nothing."""
    return "\n".join(
        (
            f"-- {address.name}",
            f"CREATE SCHEMA IF NOT EXISTS {address.schema};",
            _filled(_read("tables.sql"), address),
            *(_filled(_read(name), address) for name in _FUNCTIONS),
            f"INSERT INTO {address.schema}.version VALUES ({VERSION}, {UNDERSTOOD_FROM});",
        )
    )


def _read(name: str) -> str:
    return (pkgutil.get_data(__package__, name) or b"").decode()


def _filled(sql: str, address: Address) -> str:
    return sql.replace("@schema@", address.schema).replace("@name@", address.config.schema)


async def ensure(connection: Any, address: Address) -> None:
    """Create the tables if there are none; leaves those of another version as they are.

    Raises:
        BrokerError: Their version does not fit this one.
    """
    # In one transaction, which a pooler keeps on one connection.
    async with connection.transaction():
        state = await _state(connection, address)
    if state is None:
        await upgrade(connection, address)
    else:
        _check(*state, address)


async def _state(connection: Any, address: Address) -> tuple[int, int] | None:
    if not await connection.fetchval(_EXISTS, address.config.schema):
        return None
    row = await connection.fetchrow(_STATE.format(schema=address.schema))
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
    """Create the tables, or upgrade them to this version, in one transaction.

    Raises:
        BrokerError: They are of a later version that does not fit this one.
    """
    schema = address.schema
    async with connection.transaction():
        await connection.execute(_LOCK)
        state = await _state(connection, address)
        if state is None:
            # CREATE SCHEMA IF NOT EXISTS needs the privilege even if the schema exists.
            exists = "SELECT FROM pg_namespace WHERE nspname = $1"
            if await connection.fetchrow(exists, address.config.schema) is None:
                await connection.execute(f"CREATE SCHEMA {schema}")
            await connection.execute(_filled(_read("tables.sql"), address))
            await connection.execute(f"INSERT INTO {schema}.version VALUES (0, 0)")
            number = VERSION
        else:
            number, understood_from = state
            if number > VERSION:
                _check(number, understood_from, address)
                return
        for step in range(number, VERSION):
            await connection.execute(_filled(_UPGRADES[step], address))
        for name in _FUNCTIONS:
            await connection.execute(_filled(_read(name), address))
        await connection.execute(
            f"UPDATE {schema}.version SET number = $1, understood_from = $2",
            VERSION,
            UNDERSTOOD_FROM,
        )

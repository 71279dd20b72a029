"""What the broker does in the application's transactions, as statements for any driver.

Owns the form of messages in them: a single text, which every driver passes on unchanged.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

from asynctasq import Statement
from asynctasq.brokers import Outcome, Outgoing

from .consumer import Tag
from .putting import columns, policy_columns

# Two connections that give the same answer are to the same running server and database. This asks
# only catalogs, which everybody may read. It also asks whether the user may do what the broker has
# to do there, since a refused statement would abort the application's transaction.
_WHEREABOUTS = """
SELECT current_database()::text AS name,
    (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint::text AS started,
    d.oid::text AS database, n.oid::text AS schema,
    has_schema_privilege(n.oid, 'USAGE')
        AND (SELECT bool_and(CASE c.relkind
                WHEN 'S' THEN has_sequence_privilege(c.oid, 'USAGE')
                ELSE has_table_privilege(c.oid, 'SELECT')
                    AND has_table_privilege(c.oid, 'INSERT')
                    AND has_table_privilege(c.oid, 'UPDATE')
                    AND has_table_privilege(c.oid, 'DELETE') END)
            FROM pg_class c WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'S'))
        AND (SELECT bool_and(has_function_privilege(p.oid, 'EXECUTE'))
            FROM pg_proc p WHERE p.pronamespace = n.oid) AS may
FROM pg_database d LEFT JOIN pg_namespace n ON n.nspname = {schema}
WHERE d.datname = current_database()
"""

_POLICY_COLUMNS = (
    "unique_keys",
    "untils_started",
    "lasts_seconds",
    "replacing",
    "limit_keys",
    "mosts",
    "rate_keys",
    "intervals",
    "bursts",
)


def whereabouts(schema: str) -> Statement:
    """The statement that asks a transaction where it is.

    Args:
        schema: The schema's name, without quotes.
    """
    return Statement(" ".join(_WHEREABOUTS.format(schema="?").split()), (schema,))


def own_whereabouts() -> str:
    """The same statement for the broker's own connection."""
    return _WHEREABOUTS.format(schema="$1")


def putting(schema: str, messages: Sequence[Outgoing]) -> Statement:
    """Adds messages; returns those not added, each with the message that holds its key."""
    names = ["queues", "ids", "bodies", "dues", "priorities"]
    values: list[Sequence[Any]] = [*columns(messages)]
    values[2] = [b64encode(body).decode() for body in values[2]]
    if any(m.policy is not None for m in messages):
        names += _POLICY_COLUMNS
        values += policy_columns(messages)
    given = {name: [_plain(v) for v in column] for name, column in zip(names, values, strict=True)}
    sql = f"SELECT id, holder FROM {schema}.put_in_transaction(CAST(? AS text))"
    return Statement(sql, (json.dumps(given, ensure_ascii=False, separators=(",", ":")),))


def _plain(value: Any) -> Any:
    """Floats as text, since JSON has no infinity."""
    return repr(value) if isinstance(value, float) else value


def settling(schema: str, outcome: Outcome) -> Statement:
    """Applies the outcome of a call that is done; returns a row if it did."""
    tag = Tag(*outcome.delivery.tag)
    types = ("integer", "bigint", "bigint", "bytea", "double precision")
    arguments = ", ".join(f"CAST(? AS {name})" for name in types)
    function = f"{schema}.settle_in_transaction({arguments})"
    sql = f"SELECT applied FROM {function} AS applied WHERE applied"
    parameters = (tag.worker, tag.message, tag.lease, outcome.result, float(outcome.result_ttl))
    return Statement(sql, parameters)

"""Turns messages into arguments of the functions that add them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asynctasq.brokers import Outgoing, Policy

_NONE = Policy()


def places(first: int, count: int) -> str:
    """`count` placeholders, numbered from `first`."""
    return ", ".join(f"${n}" for n in range(first, first + count))


PUT = f"SELECT {{schema}}.put({places(1, 5)})"
PUT_POLICED = f"SELECT * FROM {{schema}}.put_policed({places(1, 14)})"


def columns(messages: Sequence[Outgoing]) -> tuple[list[Any], ...]:
    """Queues, ids, bodies, due times and priorities."""
    return (
        [m.queue for m in messages],
        [m.id for m in messages],
        [m.body for m in messages],
        [m.due for m in messages],
        [m.priority for m in messages],
    )


def policy_columns(messages: Sequence[Outgoing]) -> tuple[list[Any], ...]:
    """Unique keys and how long they hold, limits and rates; `None` where a message has none."""
    policies = [m.policy or _NONE for m in messages]
    uniques = [p.unique for p in policies]
    limits = [p.limit for p in policies]
    rates = [p.rate for p in policies]
    return (
        [u and u.key for u in uniques],
        [u and u.until == "started" for u in uniques],
        [u and u.lasts_seconds for u in uniques],
        [u and u.replaces for u in uniques],
        [limit and limit.key for limit in limits],
        [limit and limit.most for limit in limits],
        [r and r.key for r in rates],
        [r and r.interval_seconds for r in rates],
        [r and r.burst for r in rates],
    )

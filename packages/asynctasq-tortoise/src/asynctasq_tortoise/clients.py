"""Tortoise's clients: which one is a transaction, and which one is outside of all transactions."""

from __future__ import annotations

import sys
from typing import Any


def is_transaction(client: object) -> bool:
    """Whether this is a client as `in_transaction` returns it."""
    base = sys.modules["tortoise.backends.base.client"]
    kinds = [getattr(base, n, ()) for n in ("TransactionalDBClient", "BaseTransactionWrapper")]
    return isinstance(client, tuple(kinds))  # the latter is the name in 0.21


def base_client(alias: str) -> Any:
    """The client outside of transactions, even if this context has one, open or over."""
    from tortoise.connection import connections

    client = connections.get(alias)
    while is_transaction(client):
        client = client._parent
    return client

"""Transactions of the adapter's own, which give their connection back however they end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def transaction(parent: Any) -> AsyncIterator[Any]:
    """Open a transaction on a client that is in none; commits unless the block raises.

    A driver whose query was cancelled closes the connection, and the rollback then fails. Tortoise
    0.21 would never give such a connection back, and closing its pool would wait for it for ever.
    """
    block = parent._in_transaction()
    try:
        client = await block.__aenter__()
    except BaseException:
        await _give_back(block)
        raise
    try:
        yield client
    except BaseException as e:
        try:
            await _roll_back(client)
        finally:
            await block.__aexit__(type(e), e, e.__traceback__)
        raise
    await block.__aexit__(None, None, None)


async def _roll_back(client: Any) -> None:
    """End the transaction, so that leaving its block only gives the connection back."""
    try:
        if not client._finalized:
            await client.rollback()
    except Exception:  # noqa: BLE001 - the connection is lost, and its transaction with it
        return
    finally:
        client._finalized = True


async def _give_back(block: Any) -> None:
    """Give back the connection of a transaction that could not begin, if it got as far."""
    client = getattr(block, "client", None) or block.connection  # the latter is the name in 0.21
    pool, connection = getattr(client._parent, "_pool", None), client._connection
    if pool and connection:
        await pool.release(connection)

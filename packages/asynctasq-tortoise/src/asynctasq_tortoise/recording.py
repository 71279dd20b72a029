"""Wraps Tortoise's own methods to record what it does not remember.

The wrappers do not change what a successful method does. They are installed once, when the
application imports Tortoise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

import wrapt

from . import commits, identity, lifecycle
from .clients import is_transaction
from .loading import is_0_21
from .settings import POOL_ARGUMENTS, init_arguments

Wrapped = Callable[..., Awaitable[Any]]


def install() -> None:
    """Wrap the methods; Tortoise must be imported."""
    queryset = import_module("tortoise.queryset")
    executor = "tortoise.backends.base.executor"
    wrapt.wrap_function_wrapper(executor, "BaseExecutor.execute_select", _after_select)
    wrapt.wrap_function_wrapper(executor, "BaseExecutor.execute_insert", _after_write)
    wrapt.wrap_function_wrapper(executor, "BaseExecutor.execute_update", _after_write)
    wrapt.wrap_function_wrapper(executor, "BaseExecutor.execute_delete", _after_delete)
    for query in ("UpdateQuery", "DeleteQuery", "BulkUpdateQuery", "BulkCreateQuery"):
        # Bulk queries have one or the other, depending on the version of Tortoise.
        members = vars(getattr(queryset, query))
        for name in {"_execute", "_execute_many"} & members.keys():
            wrapt.wrap_function_wrapper(queryset.__name__, f"{query}.{name}", _after_bulk_write)
            if query == "BulkCreateQuery":
                wrapt.wrap_function_wrapper(queryset.__name__, f"{query}.{name}", _after_insert)
    wrapt.wrap_function_wrapper("tortoise.connection", "ConnectionHandler.set", _on_begin)
    wrapt.wrap_function_wrapper("tortoise", "Tortoise.init", _init)
    client = "tortoise.backends.base.client"
    wrapt.wrap_function_wrapper(client, "ConnectionWrapper.ensure_connection", _unlock_on_failure)
    wrapt.wrap_function_wrapper(client, "TransactionContextPooled.__aexit__", _on_end)
    wrapt.when_imported("tortoise.backends.sqlite.client")(_watch_blocks_of_sqlite)
    if is_0_21():
        wrapt.wrap_function_wrapper(client, "TransactionContext.__aexit__", _on_end)
        for user in ("PoolConnectionWrapper", "TransactionContextPooled"):
            wrapt.wrap_function_wrapper(client, f"{user}.ensure_connection", _connect_once)


async def _after_select(
    wrapped: Wrapped, executor: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    rows = await wrapped(*args, **kwargs)
    identity.remember_database(rows, executor.model, executor.db)
    return rows


async def _after_write(
    wrapped: Wrapped, executor: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    result = await wrapped(*args, **kwargs)
    instance = args[0] if args else kwargs["instance"]
    identity.forget_deletion(instance)
    identity.forget_database(instance)
    identity.remember_database([instance], executor.model, executor.db)
    if transaction := commits.transaction_of(executor.db):
        transaction.wrote(executor.model, instance.pk)
    return result


async def _after_delete(
    wrapped: Wrapped, executor: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    result = await wrapped(*args, **kwargs)
    instance = args[0] if args else kwargs["instance"]
    identity.remember_deletion(instance)
    if transaction := commits.transaction_of(executor.db):
        transaction.deleted(instance)
    return result


async def _after_bulk_write(
    wrapped: Wrapped, query: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    result = await wrapped(*args, **kwargs)
    if transaction := commits.transaction_of(query._db):
        transaction.wrote_many(query.model)
    return result


async def _after_insert(
    wrapped: Wrapped, query: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """Record the instances of a `bulk_create`, unless it may have skipped rows without an error."""
    result = await wrapped(*args, **kwargs)
    if _of(query, "ignore_conflicts") or _of(query, "update_fields"):
        return result
    instances = [i for i in _of(query, "objects") if i.pk is not None]
    for instance in instances:
        identity.forget_deletion(instance)
        identity.remember_insert(instance)
    identity.remember_database(instances, query.model, query._db)
    if transaction := commits.transaction_of(query._db):
        transaction.inserted(instances)
    return result


def _of(query: Any, name: str) -> Any:
    """An attribute of a query, whose name has no underscore in 0.x."""
    return getattr(query, f"_{name}" if hasattr(query, f"_{name}") else name)


def _on_begin(
    wrapped: Callable[..., Any], handler: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    client = args[1] if len(args) > 1 else kwargs["conn_obj"]
    if is_transaction(client):
        commits.follow(client)
    return wrapped(*args, **kwargs)


def _watch_blocks_of_sqlite(module: Any) -> None:
    """Wrap the class that later versions have for them, in a module imported on first use."""
    if hasattr(module, "SqliteTransactionContext"):
        wrapt.wrap_function_wrapper(module, "SqliteTransactionContext.__aexit__", _on_end)


async def _on_end(
    wrapped: Wrapped, block: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    client = block.client if hasattr(block, "client") else block.connection
    return await commits.leave(client, partial(wrapped, *args, **kwargs))


async def _init(
    wrapped: Wrapped, tortoise: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    if not POOL_ARGUMENTS.isdisjoint(kwargs):
        names = ("config", "config_file", "_create_db", "db_url", "modules")
        kwargs = init_arguments({**dict(zip(names, args, strict=False)), **kwargs})
        args = ()
    context = await wrapped(*args, **kwargs)
    lifecycle.adopt(context)
    return context


async def _unlock_on_failure(
    wrapped: Wrapped, wrapper: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """Unlock SQLite's one connection if it cannot be opened: Tortoise would lock it for ever."""
    try:
        return await wrapped(*args, **kwargs)
    except BaseException:
        (wrapper._lock if hasattr(wrapper, "_lock") else wrapper.lock).release()
        raise


async def _connect_once(
    wrapped: Wrapped, user: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """Connect only once: Tortoise 0.21 would make several pools, and lose all but one."""
    is_wrapper = hasattr(user, "client")
    client = user.client if is_wrapper else user.connection._parent
    if not client._pool:
        async with vars(client).setdefault("_asynctasq_lock", asyncio.Lock()):
            if not client._pool:
                await wrapped(*args, **kwargs)
    if is_wrapper:
        user.pool = client._pool

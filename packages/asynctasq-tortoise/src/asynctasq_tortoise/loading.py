"""Fetches rows for references: one query for many keys."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

from asynctasq import ConfigurationError, InvalidReference, Ref, ReferenceUnavailable

from .blocks import transaction
from .clients import is_transaction
from .keys import key_of, sent
from .lifecycle import current_scope, ensure_initialised
from .options import DatabaseOption, LoadOption
from .outages import outage

#: Below the smallest parameter limit among Tortoise's databases (2,100).
CHUNK_SIZE = 2000


@cache
def is_0_21() -> bool:
    """Whether this is Tortoise 0.21, which inlines values in statements and locks no pools."""
    return version("tortoise-orm").startswith("0.21.")


async def fetch_many(refs: Sequence[Ref]) -> list[object | None]:
    """The rows in the order asked for, each a separate instance; `None` if a row is gone."""
    model: Any = refs[0].model_class()
    await ensure_initialised()
    keys = [key_of(model, ref) for ref in refs]
    try:
        rows = await _rows(model, dict(keys), refs[0])
    except Exception as e:
        if (cause := outage(e)) is None:
            raise
        raise ReferenceUnavailable(
            f"the database of {refs[0].model} could not answer ({type(cause).__name__})"
        ) from cause
    return list(_each_its_own([key for key, _ in keys], rows))


async def _rows(model: Any, keys: dict[Any, Any], ref: Ref) -> dict[Any, Any]:
    """The rows by travelling key; `keys` maps these to the keys that instances hold."""
    loads = [o for o in ref.options if isinstance(o, LoadOption)]
    connection = await _connection(model, ref, any(o.in_task_scope for o in loads))
    is_unescaped = connection.capabilities.dialect == "mysql" and is_0_21()
    if is_unescaped and any("\\" in str(key) for key in keys):
        raise InvalidReference(f"{ref.model}: a key with a backslash needs Tortoise 0.22 or later")
    wanted = list(keys.values())
    rows: dict[Any, Any] = {}
    for start in range(0, len(wanted), CHUNK_SIZE):
        for row in await _select(model, connection, loads, wanted[start : start + CHUNK_SIZE]):
            rows[sent(model, row.pk)] = row
    strange = rows.keys() - keys.keys()
    for key in keys:
        # The database may return a key in another case or rounded: look such rows up one by one.
        if strange and key not in rows:
            for row in await _select(model, connection, loads, [keys[key]]):
                rows[key] = row
                strange.discard(sent(model, row.pk))
    return rows


def _select(model: Any, connection: Any, loads: Sequence[LoadOption], keys: list[Any]) -> Any:
    from tortoise.queryset import QuerySet

    # Without the model's manager, which may hide rows.
    query = QuerySet(model).using_db(connection)
    query = query.filter(**{f"{model._meta.pk_attr}__in": keys})
    for option in loads:
        query = option.apply(query)
    return query


async def _connection(model: Any, ref: Ref, is_locked: bool) -> Any:
    from tortoise.connection import connections

    alias = alias_of(model, ref)
    connection = connections.get(alias)
    if not is_locked or is_transaction(connection):
        return connection
    if (scope := current_scope()) is None:
        raise ConfigurationError("select_for_update() works for arguments of a running task only")
    return await scope.enter_async_context(transaction(connection))


def alias_of(model: Any, ref: Ref | None = None) -> str:
    """The name of the connection to the database of a row, or of a model's new rows.

    Raises:
        ConfigurationError: Tortoise does not know the model.
        InvalidReference: The reference names a connection that does not exist.
    """
    from tortoise.connection import connections

    if model._meta.default_connection is None:
        raise ConfigurationError(
            f"Tortoise does not know {model.__module__}.{model.__qualname__}: list its module in "
            f"`modules` of its configuration"
        )
    chosen = (o.alias for o in ref.options if isinstance(o, DatabaseOption)) if ref else iter(())
    alias: str = next(chosen, ref and ref.db) or model._choose_db(True).connection_name
    if alias not in connections.db_config:
        raise InvalidReference(
            f"{ref.model if ref else model}: Tortoise has no connection {alias!r} here"
        )
    return alias


def _each_its_own(keys: list[Any], rows: dict[Any, Any]) -> Iterator[object | None]:
    given = set()
    for key in keys:
        row = rows.get(key)
        yield copy.deepcopy(row) if key in given else row
        given.add(key)

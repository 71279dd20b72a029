"""From references to fresh instances: one query per batch, on the database they came from.

Owns the rules that default managers hide nothing, that an impossible key never reaches the
database, and that no two positions in the result share an instance.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from asynctasq import InvalidReference, Ref, ReferenceUnavailable
from django.db import (
    DEFAULT_DB_ALIAS,
    DataError,
    InterfaceError,
    OperationalError,
    connections,
    models,
)

from .keys import key_fields, read_key, sent_key
from .options import Loading

# PostgreSQL counts the parameters of a statement in 16 bits when it binds them itself.
_MOST_PARAMETERS = 30_000

# Without tuple lookups Django nests one OR per composite key; SQLite allows a depth of 1000.
_MOST_NESTED_TUPLES = 200

# Mistakes in a statement are operational errors too, but waiting does not fix them: SQLite's code
# for all of them, and MySQL's numbers for a missing column, table or privilege.
_SQLITE_MISTAKE = 1
_MYSQL_MISTAKES = {1051, 1054, 1060, 1091, 1142, 1143}


def database_of(ref: Ref) -> str:
    """The alias of the database named by the task's annotation, or else by the reference.

    Raises:
        InvalidReference: There is no such alias in `settings.DATABASES`.
    """
    chosen = (o.args[0] for o in ref.options if isinstance(o, Loading) and o.method == "using")
    alias: str = next(chosen, ref.db) or DEFAULT_DB_ALIAS
    if alias not in connections.settings:
        raise InvalidReference(f"{ref.model}: settings.DATABASES has no database {alias[:100]!r}")
    return alias


def load(refs: Sequence[Ref]) -> list[object | None]:
    """The rows of these references, in order; runs in the thread that owns the connection."""
    model, alias = _model_of(refs[0]), database_of(refs[0])
    keys = [read_key(model, ref.pk, alias) for ref in refs]
    queryset = model._base_manager.using(alias).order_by()
    for option in refs[0].options:
        if isinstance(option, Loading) and option.method != "using":
            queryset = option.apply(queryset)
    try:
        found = _fetch(queryset, dict(keys))
    except (OperationalError, InterfaceError) as e:
        if not gave_way(e):
            raise
        raise ReferenceUnavailable(f"database {alias!r} gave no answer: {type(e).__name__}") from e
    except (DataError, ValueError, ArithmeticError) as e:
        raise InvalidReference(f"{refs[0].model}: a key does not fit its column") from e
    return list(_each_its_own([sent for sent, _ in keys], found))


def gave_way(error: Exception) -> bool:
    """Whether a database could not answer or aborted a transaction, so that a retry may help."""
    if not isinstance(error, OperationalError | InterfaceError):
        return False
    code = getattr(error.__cause__, "sqlite_errorcode", None)
    if code is not None:
        return bool(code & 0xFF != _SQLITE_MISTAKE)
    return not error.args or error.args[0] not in _MYSQL_MISTAKES


def _model_of(ref: Ref) -> type[models.Model]:
    model = ref.model_class()
    if not issubclass(model, models.Model) or not hasattr(model, "_meta") or model._meta.abstract:
        raise InvalidReference(f"{ref.model!r} is not a Django model with a table")
    return model


def _fetch(queryset: models.QuerySet[Any], keys: Mapping[Any, Any]) -> dict[Any, models.Model]:
    """The rows by travelling key; `keys` maps these to the keys that instances hold."""
    features = connections[queryset.db].features
    width = len(key_fields(queryset.model))
    size = (features.max_query_params or _MOST_PARAMETERS) // width
    if width > 1 and not getattr(features, "supports_tuple_lookups", True):
        size = min(size, _MOST_NESTED_TUPLES)
    wanted = list(keys.values())
    found: dict[Any, models.Model] = {}
    for start in range(0, len(wanted), size):
        for row in queryset.filter(pk__in=wanted[start : start + size]):
            found[_sent(row, queryset.db)] = row
    strange = found.keys() - keys.keys()
    for key in keys:
        # The database may return a key in another case or rounded: look such rows up one by one.
        if strange and key not in found:
            for row in queryset.filter(pk=keys[key]):
                found[key] = row
                strange.discard(_sent(row, queryset.db))
    return found


def _sent(row: models.Model, alias: str) -> Any:
    return sent_key(type(row), row.pk, alias)


def _each_its_own(keys: Sequence[Any], found: dict[Any, models.Model]) -> Iterator[object | None]:
    given: set[Any] = set()
    for key in keys:
        row = found.get(key)
        # Pickling copies mutable values and related rows; `copy` would share mutable values, and
        # `deepcopy` would drop what was prefetched.
        yield row if row is None or key not in given else pickle.loads(pickle.dumps(row, -1))
        given.add(key)

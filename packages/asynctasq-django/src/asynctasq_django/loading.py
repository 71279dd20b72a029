"""From references to fresh instances: one query for a batch, on the database they came from.

Owns the rules that default managers hide nothing, that a key which cannot be one of the model never
reaches the database, and that no two positions of the result share an instance.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from typing import Any

from asynctasq import InvalidReference, Ref, ReferenceUnavailable
from django.core.exceptions import ValidationError
from django.db import (
    DEFAULT_DB_ALIAS,
    DataError,
    InterfaceError,
    OperationalError,
    connections,
    models,
)

from .identity import key_fields
from .options import Loading

# PostgreSQL counts the parameters of a statement in 16 bits when it binds them itself.
_MOST_PARAMETERS = 30_000

# Without tuple lookups Django nests one OR for each composite key; SQLite allows a depth of 1000.
_MOST_NESTED_TUPLES = 200

# SQLite and MySQL report these as operational errors too, but waiting does not mend them.
_MISTAKES = ("no such table", "no such column", "Unknown column", "maximum depth")


def database_of(ref: Ref) -> str:
    """The alias of the database that the task's annotation, or else the reference, names.

    Raises:
        InvalidReference: There is no such alias in `settings.DATABASES`.
    """
    chosen = (o.args[0] for o in ref.options if isinstance(o, Loading) and o.method == "using")
    alias: str = next(chosen, ref.db) or DEFAULT_DB_ALIAS
    if alias not in connections.settings:
        raise InvalidReference(f"{ref.model}: settings.DATABASES has no database {alias[:100]!r}")
    return alias


def load(refs: Sequence[Ref]) -> list[object | None]:
    """The rows of these references in order; runs in the thread that owns the connection."""
    model, alias = _model_of(refs[0]), database_of(refs[0])
    keys = [_key(model, ref.pk) for ref in refs]
    queryset = model._base_manager.using(alias).order_by()
    for option in refs[0].options:
        if isinstance(option, Loading) and option.method != "using":
            queryset = option.apply(queryset)
    try:
        found = _fetch(queryset, keys)
    except (OperationalError, InterfaceError) as e:
        if any(mistake in str(e) for mistake in _MISTAKES):
            raise
        raise ReferenceUnavailable(f"database {alias!r} gave no answer: {type(e).__name__}") from e
    except (DataError, ValueError, ArithmeticError) as e:
        raise InvalidReference(f"{refs[0].model}: a key does not fit its column") from e
    return list(_each_its_own(keys, found))


def _model_of(ref: Ref) -> type[models.Model]:
    model = ref.model_class()
    if not issubclass(model, models.Model) or not hasattr(model, "_meta") or model._meta.abstract:
        raise InvalidReference(f"{ref.model!r} is not a Django model with a table")
    return model


def _key(model: type[models.Model], pk: Any) -> Any:
    """The key in the form in which instances of the model carry it."""
    fields = key_fields(model)
    if len(fields) == 1:
        return _key_part(model, fields[0], pk)
    if not isinstance(pk, (tuple, list)) or len(pk) != len(fields):
        raise InvalidReference(f"{model._meta.label}: the key has {len(fields)} parts")
    return tuple(_key_part(model, field, part) for field, part in zip(fields, pk, strict=True))


def _key_part(model: type[models.Model], field: models.Field[Any, Any], value: Any) -> Any:
    try:
        converted = field.to_python(value)
        fits = converted is not None and _fits(field, value, converted)
    except (ValidationError, ValueError, TypeError, ArithmeticError):
        fits = False
    if not fits:
        raise InvalidReference(
            f"{model._meta.label}.{field.name}: a {type(value).__name__} that cannot be its key"
        )
    return converted


def _fits(field: models.Field[Any, Any], value: Any, converted: Any) -> bool:
    """Whether nothing was lost or made up in the conversion, and databases can take the result."""
    if type(value) in (bool, float):
        return type(converted) is type(value)
    if not isinstance(value, str) and value not in (converted, field.get_prep_value(converted)):
        return False
    if isinstance(converted, str):
        return "\0" not in converted and bool(converted.encode() or True)
    return not isinstance(converted, int) or -(2**63) <= converted < 2**63


def _fetch(queryset: models.QuerySet[Any], keys: Sequence[Any]) -> dict[Any, models.Model]:
    features = connections[queryset.db].features
    width = len(key_fields(queryset.model))
    size = (features.max_query_params or _MOST_PARAMETERS) // width
    if width > 1 and not getattr(features, "supports_tuple_lookups", True):
        size = min(size, _MOST_NESTED_TUPLES)
    wanted = list(dict.fromkeys(keys))
    parts = (wanted[start : start + size] for start in range(0, len(wanted), size))
    return {row.pk: row for part in parts for row in queryset.filter(pk__in=part)}


def _each_its_own(keys: Sequence[Any], found: dict[Any, models.Model]) -> Iterator[object | None]:
    given: set[Any] = set()
    for key in keys:
        row = found.get(key)
        # Pickling copies mutable values and rows fetched along; `copy` and `deepcopy` share the
        # former, or drop what was prefetched.
        yield row if row is None or key not in given else pickle.loads(pickle.dumps(row, -1))
        given.add(key)

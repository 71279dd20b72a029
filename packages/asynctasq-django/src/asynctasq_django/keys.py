"""Keys as they travel, and as instances of their model hold them.

Owns the rule that a key travels as it would be read back, whatever was assigned to the attribute:
as the model's field reads it, or, if attributes hold a type of the application's own, as the field
writes it. So a row has one key, fresh or loaded.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

from asynctasq import PLAIN_TYPES, InvalidReference, SerializationError, plain_value
from django.conf import settings
from django.db import connections, models
from django.utils import timezone


def key_fields(model: type[models.Model]) -> tuple[models.Field[Any, Any], ...]:
    """The fields of the primary key; more than one only if it is composite."""
    pk = model._meta.pk
    return tuple(getattr(model._meta, "pk_fields", None) or (pk,))


def sent_key(model: type[models.Model], pk: Any, alias: str) -> Any:
    """The form in which the key of an instance travels.

    Raises:
        SerializationError: It cannot travel.
    """
    fields = key_fields(model)
    parts = pk if isinstance(pk, tuple) else (pk,)
    sent = tuple(_sent_part(model, f, v, alias) for f, v in zip(fields, parts, strict=True))
    return sent if isinstance(pk, tuple) else sent[0]


def _sent_part(
    model: type[models.Model], field: models.Field[Any, Any], value: Any, alias: str
) -> Any:
    try:
        return _sent(_column(field), value, alias)
    except Exception as e:  # runs code of the application's fields
        raise SerializationError(
            f"the key of this {model.__qualname__} cannot be put on the queue: its {field.name} "
            f"holds {type(value).__qualname__} ({type(e).__name__})"
        ) from e


def _column(field: Any) -> Any:
    """The field that decides what the column holds: relations are followed to their end."""
    while field.remote_field is not None:
        field = field.target_field
    return field


def _sent(field: Any, value: Any, alias: str) -> Any:
    """What travels for a value of the field; raises what the field raises if nothing can."""
    if isinstance(value, datetime.datetime) and isinstance(field, models.DateTimeField):
        value = _in_time_zone(value)
    prepared = field.get_prep_value(value)
    forms: list[Callable[[], Any]] = [
        lambda: field.to_python(prepared),
        lambda: prepared,
        lambda: field.get_db_prep_value(value, connections[alias], False),
    ]
    # A field that converts what it reads from its column is asked only what it writes there.
    for form in forms[2:] if _reads_column(field) else forms:
        found = plain_value(form())
        if type(found) in PLAIN_TYPES and found == found:
            return found
    raise TypeError(f"{type(value).__qualname__} cannot travel")


def _reads_column(field: Any) -> bool:
    return hasattr(field, "from_db_value")


def _in_time_zone(value: datetime.datetime) -> datetime.datetime:
    """The value as the field itself would take it, without the warning that saving has given."""
    if settings.USE_TZ and timezone.is_naive(value):
        return timezone.make_aware(value, timezone.get_default_timezone())
    return value


def read_key(model: type[models.Model], pk: Any, alias: str) -> tuple[Any, Any]:
    """A key that travelled, as instances would send it and as they hold it.

    Raises:
        InvalidReference: It cannot be a key of this model, and must not reach the database.
    """
    fields = key_fields(model)
    if len(fields) == 1:
        return _read_part(model, fields[0], pk, alias)
    if not isinstance(pk, (tuple, list)) or len(pk) != len(fields):
        raise InvalidReference(f"{model._meta.label}: the key has {len(fields)} parts")
    parts = [_read_part(model, f, part, alias) for f, part in zip(fields, pk, strict=True)]
    return tuple(sent for sent, _ in parts), tuple(value for _, value in parts)


def _read_part(
    model: type[models.Model], field: models.Field[Any, Any], part: Any, alias: str
) -> tuple[Any, Any]:
    column = _column(field)
    try:
        value = _read(column, part, alias)
        sent = _sent(column, value, alias)
        fits = type(part) in PLAIN_TYPES and _fits(part, sent)
    except Exception as e:  # runs the same code on what anybody may have written
        raise _no_key(model, field, part) from e
    if not fits:
        raise _no_key(model, field, part)
    return sent, value


def _no_key(
    model: type[models.Model], field: models.Field[Any, Any], part: Any
) -> InvalidReference:
    return InvalidReference(
        f"{model._meta.label}.{field.name}: a {type(part).__name__} that cannot be its key"
    )


def _read(field: Any, part: Any, alias: str) -> Any:
    if _reads_column(field):
        return field.from_db_value(part, None, connections[alias])
    return field.to_python(part)


def _fits(part: Any, sent: Any) -> bool:
    """Whether the conversion lost nothing and invented nothing, and databases accept the result."""
    if type(part) in (bool, float, bytes):
        return type(sent) is type(part) and sent == part
    if not isinstance(part, str) and sent != part and str(sent) != str(part):
        return False
    if isinstance(sent, str):
        return "\0" not in sent and bool(sent.encode() or True)
    return not isinstance(sent, int) or -(2**63) <= sent < 2**63

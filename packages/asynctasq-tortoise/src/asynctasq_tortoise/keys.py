"""A key as it travels, and as instances of its model carry it.

Owns the rule that a key travels as it would be read back: as the model's field reads what it
writes, or, where that is no value that travels, such as an enum's member, as it is written. So a
row has one key, fresh or loaded, whatever was assigned to the attribute and whatever class a driver
gives.
"""

from __future__ import annotations

from typing import Any

from asynctasq import PLAIN_TYPES, InvalidReference, Ref, SerializationError, plain_value


def sent(model: Any, key: Any) -> Any:
    """What travels for a key of the model; raises whatever its field does if nothing can."""
    field = model._meta.pk
    # `to_python_value` is also what a model's constructor makes of an argument.
    written = field.to_db_value(field.to_python_value(key), model)
    for form in (field.to_python_value(written), written):
        value = plain_value(form)
        if type(value) is bool and field.field_type is not bool:
            value = int(value)
        if type(value) in PLAIN_TYPES and value == value:
            return value
    raise TypeError(f"{type(key).__qualname__} cannot travel")


def key_to_send(model: Any, key: Any) -> Any:
    """What travels for the key of an instance.

    Raises:
        SerializationError: It cannot travel.
    """
    try:
        return sent(model, key)
    except Exception as e:  # code of the application's fields runs inside
        raise SerializationError(
            f"the key of this {model.__name__} cannot be put on the queue: its "
            f"{model._meta.pk_attr} holds {type(key).__qualname__} ({type(e).__name__})"
        ) from e


def key_of(model: Any, ref: Ref) -> tuple[Any, Any]:
    """The key of a reference, in the form in which instances send it and as they carry it.

    Raises:
        InvalidReference: It cannot be a key of the model, so that none makes a query fail.
    """
    try:
        if type(ref.pk) not in PLAIN_TYPES:
            raise TypeError("nothing that travels")
        key = model._meta.pk.to_python_value(ref.pk)
        again = sent(model, key)
        is_valid = _is_same(again, ref.pk) and "\x00" not in str(again)
        limits = model._meta.pk.constraints if type(again) is int else {}
        is_valid &= limits.get("ge", again) <= again <= limits.get("le", again)
    except Exception as e:  # the same code, given what anybody may have written
        raise _no_key(model, ref) from e
    if not is_valid:
        raise _no_key(model, ref)
    return again, key


def _is_same(key: Any, pk: Any) -> bool:
    """Whether nothing was lost or made up between the two."""
    if {type(key), type(pk)} & {bool, bytes}:
        return type(key) is type(pk) and key == pk
    return bool(key == pk) or str(key) == str(pk)


def _no_key(model: Any, ref: Ref) -> InvalidReference:
    kind = type(ref.pk).__name__
    return InvalidReference(f"{ref.model}: its {model._meta.pk_attr} cannot be this {kind}")

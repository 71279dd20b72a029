"""Keys as they travel, and as instances of their model hold them.

Owns the rule that a key travels as it would be read back: as the model's field reads what it
writes, or as it is written if what is read cannot travel, such as an enum member. So a row has one
key, fresh or loaded, whatever was assigned to the attribute and whatever class a driver returns.
"""

from __future__ import annotations

from typing import Any

from asynctasq import PLAIN_TYPES, InvalidReference, Ref, SerializationError, plain_value


def sent(model: Any, key: Any) -> Any:
    """What travels for a key of the model; raises what its field raises if nothing can."""
    field = model._meta.pk
    # A model's constructor converts its arguments with `to_python_value`, too.
    written = field.to_db_value(field.to_python_value(key), model)
    for form in (field.to_python_value(written), written):
        value = plain_value(form)
        if type(value) is bool and field.field_type is not bool:
            value = int(value)
        if type(value) in PLAIN_TYPES and value == value:
            return value
    raise TypeError(f"{type(key).__qualname__} cannot travel")


def key_to_send(model: Any, key: Any) -> Any:
    """The form in which the key of an instance travels.

    Raises:
        SerializationError: It cannot travel.
    """
    try:
        return sent(model, key)
    except Exception as e:  # runs code of the application's fields
        raise SerializationError(
            f"the key of this {model.__name__} cannot be put on the queue: its "
            f"{model._meta.pk_attr} holds {type(key).__qualname__} ({type(e).__name__})"
        ) from e


def key_of(model: Any, ref: Ref) -> tuple[Any, Any]:
    """The key of a reference, as instances would send it and as they hold it.

    Raises:
        InvalidReference: It cannot be a key of the model, and must not make a query fail.
    """
    try:
        if type(ref.pk) not in PLAIN_TYPES:
            raise TypeError("nothing that travels")
        key = model._meta.pk.to_python_value(ref.pk)
        again = sent(model, key)
        is_valid = _is_same(again, ref.pk) and "\x00" not in str(again)
        limits = model._meta.pk.constraints if type(again) is int else {}
        is_valid &= limits.get("ge", again) <= again <= limits.get("le", again)
    except Exception as e:  # runs the same code on what anybody may have written
        raise _no_key(model, ref) from e
    if not is_valid:
        raise _no_key(model, ref)
    return again, key


def _is_same(key: Any, pk: Any) -> bool:
    """Whether the conversion between the two lost nothing and invented nothing."""
    if {type(key), type(pk)} & {bool, bytes}:
        return type(key) is type(pk) and key == pk
    return bool(key == pk) or str(key) == str(pk)


def _no_key(model: Any, ref: Ref) -> InvalidReference:
    kind = type(ref.pk).__name__
    return InvalidReference(f"{ref.model}: its {model._meta.pk_attr} cannot be this {kind}")

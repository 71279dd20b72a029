"""How instances of annotated classes travel and are rebuilt.

Enums travel as their value; classes with fields (dataclasses, attrs classes, named tuples, Pydantic
models, msgspec structs) as their fields; other subclasses of built-in types as the built-in type.
None of these libraries is imported here: whoever passes such a class has imported it already.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from functools import cache, partial
from typing import Any

from ..errors import InvalidMessage, SerializationError, UnknownArguments


@dataclass(frozen=True, slots=True)
class Form:
    """How instances of one class travel.

    Attributes:
        dump: Turns an instance into what is encoded in its place.
        make: Turns that, which is untrusted input, into an instance.
        fields: The attributes that travel, for the paths in errors.
    """

    dump: Callable[[Any], object]
    make: Callable[[Any], object]
    fields: tuple[str, ...] = ()


_forms: dict[type, Form | None] = {}


def form_of(cls: type) -> Form | None:
    """How instances of an annotated class travel; `None` if they cannot."""
    if cls not in _forms:
        _forms[cls] = _form(cls)
    return _forms[cls]


def _form(cls: type) -> Form | None:
    if issubclass(cls, Enum):
        return Form(lambda member: member.value, partial(_member, cls))
    return _form_with_fields(cls) or _form_of_subclass(cls)


def _form_with_fields(cls: type) -> Form | None:
    if dataclasses.is_dataclass(cls):
        declared = {f.name: f.name if f.init else "" for f in dataclasses.fields(cls)}
        return _by_fields(cls, declared)
    if (attributes := getattr(cls, "__attrs_attrs__", None)) is not None:
        return _by_fields(cls, {a.name: a.alias if a.init else "" for a in attributes})
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return _by_fields(cls, {name: name for name in cls._fields}, _keep)
    if isinstance(names := getattr(cls, "__struct_fields__", None), tuple):
        force = sys.modules["msgspec"].structs.force_setattr
        return _by_fields(cls, {name: name for name in names}, force)
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and issubclass(cls, getattr(pydantic, "BaseModel", ())):
        names = tuple(cls.model_fields)  # type: ignore[attr-defined]
        return Form(partial(_model_state, names), partial(_model, cls, names), names)
    return None


def _by_fields(
    cls: type,
    parameters: dict[str, str],
    set_field: Callable[[Any, str, object], None] = object.__setattr__,
) -> Form:
    """The form of a class whose constructor takes its fields.

    Args:
        parameters: The constructor's parameter for each field; empty if it has none.
        set_field: Sets a field even where the class overrides setting or is frozen.
    """
    names = tuple(parameters)

    def dump(value: object) -> dict[str, object]:
        if (parameter := _unknown_parameter(cls, tuple(parameters.values()))) is not None:
            raise SerializationError(
                f"{class_name(cls)} cannot be made again from its fields, since its "
                f"constructor needs {parameter!r}; use register_type(...)"
            )
        return {name: getattr(value, name) for name in names}

    def make(content: Any) -> object:
        _check_names(cls, content, names)
        given = {parameters[name]: item for name, item in content.items() if parameters[name]}
        value: object = cls(**given)
        for name, item in content.items():  # override what `__post_init__` made of the fields
            set_field(value, name, item)
        return value

    return Form(dump, make, names)


def _keep(value: object, name: str, item: object) -> None:
    """Do nothing: a tuple's constructor has set its fields."""


@cache
def _unknown_parameter(cls: type, known: tuple[str, ...]) -> str | None:
    """A required constructor parameter that no field supplies, such as an `InitVar`."""
    names = set(known)
    parameters = inspect.signature(cls).parameters.values()
    plain = (p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))
    return next((p.name for p in plain if p.name not in names and p.default is p.empty), None)


def _check_names(cls: type, content: Any, names: Iterable[str]) -> None:
    if not isinstance(content, dict) or not content.keys() <= set(names):
        raise UnknownArguments(f"fields that do not belong to {cls.__qualname__}")


def _member(cls: type[Enum], content: Any) -> object:
    try:
        return cls(content)
    except ValueError:  # not chained: its text would show the value in the traceback
        raise UnknownArguments(f"a value that is no {cls.__qualname__}") from None


# --- Pydantic models: validated once, where they were made -------------------------------------


def _model_state(names: Iterable[str], model: Any) -> list[object]:
    """The model's fields, the names that were set, its extra fields and private attributes."""
    fields = {name: getattr(model, name) for name in names}
    private = model.__pydantic_private__ or {}
    return [fields, sorted(model.model_fields_set), model.__pydantic_extra__, private]


def _model(cls: Any, names: Iterable[str], content: Any) -> object:
    fields, is_set, extra, private = content
    _check_names(cls, fields, names)
    _check_names(cls, private, cls.__private_attributes__)
    if extra is not None and cls.model_config.get("extra") != "allow":
        raise InvalidMessage(f"more fields than {cls.__qualname__} has")
    model = cls.__new__(cls)
    model.__setstate__(
        {
            "__dict__": fields,
            "__pydantic_extra__": extra,
            "__pydantic_fields_set__": set(is_set),
            "__pydantic_private__": private if cls.__private_attributes__ else None,
        }
    )
    return model


# --- subclasses of built-in types ------------------------------------------------------

#: How to read each type without calling a subclass's overrides.
_PLAIN: dict[type, Callable[[Any], object]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    bytes: lambda v: bytes.__getitem__(v, slice(None)),
    tuple: lambda v: tuple.__getitem__(v, slice(None)),
    list: list.copy,
    dict: dict,
    set: lambda v: set(set.__iter__(v)),
    frozenset: lambda v: frozenset(frozenset.__iter__(v)),
}


#: How to fill the types that `__new__` makes empty, without calling a subclass's overrides.
_INITIALISE: dict[type, Callable[[Any, Any], None]] = {
    list: list.__init__,
    dict: dict.__init__,
    set: set.__init__,
}


def plain_base(cls: type) -> type | None:
    """The built-in type that this class is a proper subclass of."""
    if cls in _PLAIN or cls is bool or typing.is_typeddict(cls):
        return None
    return next((base for base in _PLAIN if issubclass(cls, base)), None)


def plain(value: object) -> object:
    """The value as its built-in base type; unchanged if it is of no such subclass."""
    base = plain_base(type(value))
    return value if base is None else _PLAIN[base](value)


def _form_of_subclass(cls: type) -> Form | None:
    base: Any = plain_base(cls)
    if base is None or _is_of_standard_library(cls, base):
        return None

    def dump(value: object) -> object:
        if getattr(value, "__dict__", None) or _slots_of(cls):
            raise SerializationError(
                f"{class_name(cls)} has attributes, which would be lost; use register_type(...)"
            )
        return plain(value)

    def make(content: Any) -> object:
        if type(content) is not base:
            raise InvalidMessage(f"no {base.__name__} where a {cls.__qualname__} was expected")
        value: object = base.__new__(cls, content)
        if base in _INITIALISE:
            _INITIALISE[base](value, content)
        return value

    return Form(dump, make)


def _is_of_standard_library(cls: type, base: type) -> bool:
    """Whether it derives from a standard-library subclass of `base`, such as `defaultdict`.

    Those carry state besides the base type's.
    """
    between = (c for c in cls.__mro__ if issubclass(c, base) and c is not base)
    return any(c.__module__.partition(".")[0] in sys.stdlib_module_names for c in between)


def _slots_of(cls: type) -> bool:
    return any(getattr(base, "__slots__", ()) for base in cls.__mro__)


def class_name(cls: type) -> str:
    """The class's name for error messages."""
    return f"{cls.__module__}.{cls.__qualname__}"

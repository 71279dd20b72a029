"""Arguments and results as bytes; `decoder` brings them back exactly as they went.

Owns the rule that what msgpack has no form for travels as an extension type, so that no value of a
user's can be mistaken for one of ours.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any, Protocol

import msgpack

from ..errors import AsynctasqError, SerializationError
from . import scalars
from .reference import Ref

REF, TUPLE, SET, FROZENSET, OBJECT = 1, 9, 10, 11, 12

#: How deep extension types may nest, each a Python call inside msgpack's; msgpack bounds its own
#: containers.
MAX_EXTENSION_DEPTH = 32

Encode = Callable[[Any], Any]
Decode = Callable[[Any], Any]

_registered: dict[type, tuple[str, Encode]] = {}

#: How registered types are decoded, by tag.
registered_tags: dict[str, Decode] = {}


def register_type(cls: type, tag: str, encode: Encode, decode: Decode) -> None:
    """Let values of exactly this class travel as arguments and results.

    Args:
        cls: The class; subclasses are registered on their own.
        tag: What names the class on the wire: short, and the same in every process.
        encode: From a value to something that can be encoded.
        decode: Back from that to a value; called with what anybody may have written.

    Raises:
        ValueError: The tag already stands for another class.
    """
    taken = next((c for c, (t, _) in _registered.items() if t == tag and c is not cls), None)
    if taken is not None and (taken.__module__, taken.__qualname__) != (
        cls.__module__,
        cls.__qualname__,
    ):
        raise ValueError(f"tag {tag!r} already stands for {taken.__module__}.{taken.__qualname__}")
    _registered[cls] = (tag, encode)
    registered_tags[tag] = decode


PlainForm = Callable[[object], Callable[[Any], object] | None]


def no_plain_form(value: object) -> None:
    """Knows of no type."""


class Owner(Protocol):
    """What the serializer needs of an adapter."""

    @property
    def name(self) -> str:
        """The ORM's name on the wire."""

    def to_ref(self, obj: object) -> Ref:
        """The reference that travels in place of `obj`."""


@dataclass(slots=True)
class Encoded:
    """Encoded arguments, and the model instances that were met on the way with their owners."""

    payload: bytes
    models: list[tuple[Owner, object]]


class Encoder:
    """One encoding: its `default` is what msgpack calls for everything it has no form for.

    Args:
        owner_of: The adapter that owns a value's type, or `None`.
        known: Classes that the annotations name, with their tags.
        plain_form: What makes plain values of those of a value's type, or `None`.
    """

    __slots__ = ("_depth", "_known", "_owner_of", "_plain_form", "models")

    def __init__(
        self,
        owner_of: Callable[[object], Owner | None],
        known: Mapping[type, str],
        plain_form: PlainForm = no_plain_form,
    ) -> None:
        self._owner_of = owner_of
        self._known = known
        self._plain_form = plain_form
        self.models: list[tuple[Owner, object]] = []
        self._depth = 0

    def is_opaque(self, value: object) -> bool:
        """Whether its parts do not travel one by one: a model's instance, or what nobody knows."""
        cls = type(value)
        if dataclasses.is_dataclass(cls) and cls not in self._known:
            return True
        return cls not in _CONTAINER_CODES and self._owner_of(value) is not None

    def pack(self, value: object) -> bytes:
        """The value as bytes; raises whatever stands in the way, without the place."""
        # The buffer grows as needed; its default size costs more than packing a usual call does.
        packer = msgpack.Packer(default=self.default, strict_types=True, buf_size=1024)
        packed: bytes = packer.pack(value)
        if len(packed.translate(None, _FOREIGN_BYTES)) < len(packed):
            _refuse_foreign(value)
        return packed

    def default(self, value: object) -> object:
        """What msgpack packs for a value that it has no form for: an extension type, mostly."""
        cls = type(value)
        if (scalar := scalars.ENCODERS.get(cls)) is not None:
            code, encode = scalar
            return msgpack.ExtType(code, encode(value).encode())
        if self._depth == MAX_EXTENSION_DEPTH:
            raise SerializationError(_TOO_DEEP)
        self._depth += 1
        try:
            return self._nested(value)
        finally:
            self._depth -= 1

    def _nested(self, value: object) -> object:
        cls = type(value)
        if cls in _CONTAINER_CODES:
            return msgpack.ExtType(_CONTAINER_CODES[cls], self.pack(list(value)))  # type: ignore[call-overload]
        if (owner := self._owner_of(value)) is not None:
            self.models.append((owner, value))
            return msgpack.ExtType(REF, self.pack(_ref_map(owner.name, owner.to_ref(value))))
        if cls in _registered:
            tag, encode = _registered[cls]
            return self._object(tag, _without_class(encode(value), cls))
        if (known := self._known.get(cls)) is not None:
            content = value.value if isinstance(value, Enum) else _fields(value, cls)
            return self._object(known, content)
        if (to_plain := self._plain_form(value)) is not None:
            plain = to_plain(value)
            return plain if type(plain) in _PACKED_AS_THEY_ARE else self.default(plain)
        raise SerializationError(
            f"{_name(cls)} cannot be put on the queue; "
            + ("annotate the parameter with it or use " if _is_plain(cls) else "use ")
            + "register_type(...)"
        )

    def _object(self, tag: str, content: object) -> msgpack.ExtType:
        return msgpack.ExtType(OBJECT, self.pack([tag, content]))


#: What `default` may return besides extension types; not `int`, which may be too large.
_PACKED_AS_THEY_ARE = frozenset({str, bytes, float, bool, type(None), list, dict})

#: The value of a subclass's instance as a plain one, whatever the subclass overrides.
_PLAIN: dict[type, Callable[[Any], object]] = {
    str: str.__str__,
    bytes: bytes.__bytes__,
    int: int.__int__,
    float: float.__float__,
    list: list.copy,
    dict: dict.copy,
}


def _without_class(content: object, cls: type) -> object:
    """What a registered type is encoded as: `str(value)`, say, may be the very value again."""
    if type(content) is not cls:
        return content
    for base, to_plain in _PLAIN.items():
        if issubclass(cls, base):
            return to_plain(content)
    raise SerializationError(f"encode(...) of {_name(cls)} must return a value of another type")


#: What msgpack has forms for that would come back as something else, with what to do instead.
_FOREIGN: dict[type, str] = {
    bytearray: "pass bytes(...)",
    memoryview: "pass bytes(...)",
    msgpack.ExtType: "use a type of your own with register_type(...)",
    msgpack.Timestamp: "pass a datetime",
}

#: One of these begins each of them; they may stand in text and numbers too.
_FOREIGN_BYTES = bytes((*range(0xC4, 0xCA), *range(0xD4, 0xD9)))


def _refuse_foreign(value: object) -> None:
    """Raise for one of these types among what msgpack packed without asking `default`."""
    found: list[Any] = [[value]]
    for item in found:
        parts = item if type(item) is list else (*item, *item.values())
        types = set(map(type, parts))
        for cls in types & _FOREIGN.keys():
            raise SerializationError(f"{_name(cls)} cannot be put on the queue; {_FOREIGN[cls]}")
        if list in types or dict in types:
            found.extend(part for part in parts if type(part) in (list, dict))


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


_TOO_DEEP = "nested too deep, or contains itself"

_CONTAINER_CODES: dict[type, int] = {tuple: TUPLE, set: SET, frozenset: FROZENSET}


def _is_plain(cls: type) -> bool:
    return dataclasses.is_dataclass(cls) or issubclass(cls, Enum)


def _fields(value: object, cls: type) -> dict[str, object]:
    if (parameter := _unknown_parameter(cls)) is not None:
        raise SerializationError(
            f"{_name(cls)} cannot be made again from its fields, since its "
            f"constructor needs {parameter!r}; use register_type(...)"
        )
    return {f.name: getattr(value, f.name) for f in dataclasses.fields(cls)}


@cache
def _unknown_parameter(cls: type) -> str | None:
    """What the dataclass's constructor needs and no field has, such as an `InitVar`."""
    names = {f.name for f in dataclasses.fields(cls) if f.init}
    parameters = inspect.signature(cls).parameters.values()
    return next((p.name for p in parameters if p.name not in names and p.default is p.empty), None)


def _ref_map(orm: str, ref: Ref) -> dict[str, object]:
    pk = list(ref.pk) if isinstance(ref.pk, tuple) else ref.pk
    body = {f"__orm:{orm}__": pk, "__orm_class__": ref.model}
    if ref.db is not None:
        body["__orm_db__"] = ref.db
    return body


def encode_arguments(
    args: Sequence[object],
    kwargs: Mapping[str, object],
    names: Sequence[str],
    owner_of: Callable[[object], Owner | None],
    known: Mapping[type, str],
    plain_form: PlainForm = no_plain_form,
) -> Encoded:
    """Encode the arguments of one call.

    Args:
        names: The parameters' names, so that an error can name the argument.

    Raises:
        SerializationError: Names the path and the type of the first value that cannot travel.
    """
    encoder = Encoder(owner_of, known, plain_form)
    try:
        return Encoded(encoder.pack([list(args), dict(kwargs)]), encoder.models)
    except Exception as e:  # adapters' and register_type's code runs inside
        positional = zip(_positional_names(names), args, strict=False)
        for name, value in [*positional, *kwargs.items()]:
            locate(value, name, Encoder(owner_of, known, plain_form))
        raise _as_serialization_error(e, "") from e


def encode_value(
    value: object,
    path: str,
    owner_of: Callable[[object], Owner | None],
    known: Mapping[type, str],
    plain_form: PlainForm = no_plain_form,
) -> bytes:
    """Encode one value, such as a result; errors are located below `path`."""
    encoder = Encoder(owner_of, known, plain_form)
    try:
        return encoder.pack(value)
    except Exception as e:  # adapters' and register_type's code runs inside
        locate(value, path, Encoder(owner_of, known, plain_form))
        raise _as_serialization_error(e, path) from e


#: How many steps the path of an error has at most.
_DEEPEST_PATH = 100


def _positional_names(names: Sequence[str]) -> Iterator[str]:
    yield from names
    i = len(names)
    while True:
        yield f"args[{i}]"
        i += 1


def locate(value: object, path: str, encoder: Encoder, ancestors: tuple[object, ...] = ()) -> None:
    """Raise the error of the innermost value below `path` that cannot be encoded, if there is one.

    Only walked after an encoding has failed, so that success costs nothing.
    """
    try:
        encoder.pack(value)
    except Exception as e:  # noqa: BLE001 - adapters' and register_type's code runs inside
        error = e
    else:
        return
    inside = (*ancestors, value)
    if len(inside) < _DEEPEST_PATH and not encoder.is_opaque(value):
        for child_path, child in _children(value, path):
            if not any(child is ancestor for ancestor in inside):
                locate(child, child_path, encoder, inside)
    # What an adapter or this package says needs no account of how it came to say so.
    cause = None if isinstance(error, AsynctasqError) else error
    raise _as_serialization_error(error, path) from cause


def _children(value: object, path: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"{path}, key {key!r:.50}", key
            yield f"{path}[{key!r:.50}]", item
    elif isinstance(value, list | tuple):
        yield from ((f"{path}[{i}]", item) for i, item in enumerate(value))
    elif isinstance(value, set | frozenset):
        yield from ((f"{path}{{...}}", item) for item in value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((f"{path}.{f.name}", getattr(value, f.name)) for f in dataclasses.fields(value))


def _as_serialization_error(error: Exception, path: str) -> SerializationError:
    if isinstance(error, SerializationError):
        return error if error.path else type(error)(error.problem, path)
    if isinstance(error, UnicodeEncodeError):
        return SerializationError("str holds lone surrogates, which UTF-8 has no form for", path)
    if isinstance(error, ValueError | RecursionError) and "recursion" in str(error):
        return SerializationError(_TOO_DEEP, path)
    return SerializationError(f"{type(error).__name__}: {error}", path)

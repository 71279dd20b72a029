"""Encodes arguments and results; `decoding` restores exactly what was encoded.

Owns the rule that anything msgpack has no form for travels as an extension type, so that no user
value can be mistaken for one of ours.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import msgpack

from ..errors import AsynctasqError, InvalidMessage, SerializationError
from . import known_orms, scalars
from .forms import class_name, form_of, plain, plain_base
from .reference import Ref

REF, TUPLE, SET, FROZENSET, OBJECT = 1, 9, 10, 11, 12

#: How deep extension types may nest: each level is a Python call inside msgpack's. msgpack limits
#: the nesting of its own containers.
MAX_EXTENSION_DEPTH = 32

Encode = Callable[[Any], Any]
Decode = Callable[[Any], Any]

_registered: dict[type, tuple[str, Encode]] = {}

#: Decode functions of registered types, by their name on the wire.
registered_names: dict[str, Decode] = {}


def register_type(cls: type, name: str, encode: Encode, decode: Decode) -> None:
    """Let values of exactly this class travel as arguments and results.

    Args:
        cls: The class; a subclass needs its own registration.
        name: The class's name on the wire: short, and the same in every process.
        encode: Turns a value into something that can be encoded.
        decode: Turns that back into a value. It must not trust its argument: whoever can write to
            the queue chooses it.

    Raises:
        ValueError: The name already stands for another class.
    """
    taken = next((c for c, (n, _) in _registered.items() if n == name and c is not cls), None)
    if taken is not None and (taken.__module__, taken.__qualname__) != (
        cls.__module__,
        cls.__qualname__,
    ):
        raise ValueError(
            f"name {name!r} already stands for {taken.__module__}.{taken.__qualname__}"
        )
    _registered[cls] = (name, encode)
    registered_names[name] = decode


PlainForm = Callable[[object], Callable[[Any], object] | None]


def no_plain_form(value: object) -> None:
    """A `PlainForm` that knows no type."""


def _dict_in(content: Any) -> dict[Any, Any]:
    if type(content) is not dict:
        raise InvalidMessage("no map where the items of a dict were expected")
    return content


register_type(OrderedDict, "OrderedDict", dict, lambda v: OrderedDict(_dict_in(v)))
register_type(Counter, "Counter", dict, lambda v: Counter(_dict_in(v)))
register_type(deque, "deque", lambda v: [list(v), v.maxlen], lambda v: deque(v[0], v[1]))


class Owner(Protocol):
    """What the serializer needs of an adapter."""

    @property
    def name(self) -> str:
        """The ORM's name on the wire."""

    def to_ref(self, obj: object) -> Ref:
        """The reference that travels in place of `obj`."""


@dataclass(slots=True)
class Encoded:
    """Encoded arguments, and the model instances found in them, each with its owner."""

    payload: bytes
    models: list[tuple[Owner, object]]


class Encoder:
    """The state of one encoding; msgpack calls `default` for every value it has no form for.

    Args:
        owner_of: Gives the adapter that owns a value's type, or `None`.
        known: Classes in the annotations, with their names on the wire.
        plain_form: Gives the function that makes values of this type plain, or `None`.
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

    def is_opaque(self, value: Any) -> bool:
        """Whether the value does not travel part by part: a model instance, or an unknown type."""
        cls = type(value)
        if cls not in self._known and (form := form_of(cls)) is not None and form.fields:
            return True
        return cls not in _CONTAINER_CODES and self._owner_of(value) is not None

    def pack(self, value: object) -> bytes:
        """The value as bytes; an error propagates without the path of the value."""
        # The buffer grows as needed; allocating its default size costs more than packing a call.
        packer = msgpack.Packer(default=self.default, strict_types=True, buf_size=1024)
        packed: bytes = packer.pack(value)
        # In a large call it is faster to look for one byte after another and stop at the first.
        if (
            any(map(packed.__contains__, _FOREIGN_BYTES))
            if len(packed) > 1024
            else len(packed.translate(None, _FOREIGN_BYTES)) < len(packed)
        ):
            _refuse_foreign(value)
        return packed

    def default(self, value: object) -> object:
        """What msgpack packs in place of a value it has no form for: mostly an extension type."""
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
            return msgpack.ExtType(REF, self._reference(owner.name, owner.to_ref(value)))
        if isinstance(value, UUID) and cls not in _registered and cls not in self._known:
            return msgpack.ExtType(scalars.UUID_, str(value).encode())  # a driver's own class
        if (
            cls not in _registered
            and cls not in self._known
            and (to_plain := self._plain_form(value)) is not None
        ):
            plain = to_plain(value)
            return plain if type(plain) in _PACKED_AS_THEY_ARE else self.default(plain)
        return msgpack.ExtType(OBJECT, self.pack(self._object(value)))

    def _reference(self, orm: str, ref: Ref) -> bytes:
        pk = list(ref.pk) if isinstance(ref.pk, tuple) else ref.pk
        if type(pk) is not int and type(pk) is not str:
            _refuse_foreign(pk)
        body = {f"__orm:{orm}__": pk, "__orm_class__": ref.model}
        if ref.db is not None:
            body["__orm_db__"] = ref.db
        packed: bytes = msgpack.packb(body, default=self.default, strict_types=True, buf_size=1024)
        return packed

    def _object(self, value: object) -> list[object]:
        cls = type(value)
        if cls in _registered:
            name, encode = _registered[cls]
            return [name, _of_another_type(encode(value), cls)]
        form = form_of(cls)
        if form is not None and (known := self._known.get(cls)) is not None:
            return [known, form.dump(value)]
        if orm := known_orms.advice(cls):
            raise SerializationError(f"{class_name(cls)} cannot be put on the queue; {orm}")
        advice = [f"pass {base.__name__}(...)"] if (base := plain_base(cls)) is not None else []
        if form is not None:
            advice.append("annotate the parameter with it")
        advice.append("use register_type(...)")
        raise SerializationError(f"{class_name(cls)} cannot be put on the queue; {_or(advice)}")


#: What `default` may return besides extension types; not `int`, which may exceed 64 bits.
_PACKED_AS_THEY_ARE = frozenset({str, bytes, float, bool, type(None), list, dict})


#: Types that msgpack would pack but that come back as another type, and what to do instead.
_FOREIGN: dict[type, str] = {
    bytearray: "pass bytes(...)",
    memoryview: "pass bytes(...)",
    msgpack.ExtType: "use a type of your own with register_type(...)",
    msgpack.Timestamp: "pass a datetime",
}

#: The first bytes of their packed forms; text and numbers may contain these bytes too.
_FOREIGN_BYTES = bytes((*range(0xC4, 0xCA), *range(0xD4, 0xD9)))


def _refuse_foreign(value: Any) -> None:
    """Raise if msgpack packed a value of a `_FOREIGN` type without asking `default`."""
    _refuse_types({type(value)})
    found: list[Any] = [value] if type(value) is list or type(value) is dict else []
    for item in found:
        if not item:
            continue
        parts = item if type(item) is list else (*item, *item.values())
        types = set(map(type, parts))
        _refuse_types(types)
        if list in types or dict in types:
            found += [part for part in parts if type(part) is list or type(part) is dict]


def _refuse_types(types: set[type]) -> None:
    if not types.isdisjoint(_FOREIGN):
        cls = next(iter(types & _FOREIGN.keys()))
        raise SerializationError(f"{class_name(cls)} cannot be put on the queue; {_FOREIGN[cls]}")


def _or(choices: Sequence[str]) -> str:
    *first, last = choices
    return f"{', '.join(first)} or {last}" if first else last


def _of_another_type(encoded: object, cls: type) -> object:
    """What a registered `encode` returned, made plain if it is still of the registered class.

    `str(value)` in an `encode` may return the value itself.
    """
    if type(encoded) is not cls:
        return encoded
    if plain_base(cls) is None:
        raise SerializationError(
            f"the encode function of {class_name(cls)} gave back a {cls.__qualname__}"
        )
    return plain(encoded)


_TOO_DEEP = "nested too deep, or contains itself"

_CONTAINER_CODES: dict[type, int] = {tuple: TUPLE, set: SET, frozenset: FROZENSET}


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
        SerializationError: A value cannot travel; names the path and type of the first one.
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
    """Encode one value, such as a result; the paths in errors start with `path`."""
    encoder = Encoder(owner_of, known, plain_form)
    try:
        return encoder.pack(value)
    except Exception as e:  # adapters' and register_type's code runs inside
        locate(value, path, Encoder(owner_of, known, plain_form))
        raise _as_serialization_error(e, path) from e


#: Maximum number of steps in an error's path.
_DEEPEST_PATH = 100


def _positional_names(names: Sequence[str]) -> Iterator[str]:
    yield from names
    i = len(names)
    while True:
        yield f"args[{i}]"
        i += 1


def locate(value: object, path: str, encoder: Encoder, ancestors: tuple[object, ...] = ()) -> None:
    """Raise the error of the innermost value below `path` that cannot be encoded, if any.

    Called only after an encoding has failed, so that success costs nothing.
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
    # An error of ours, or of an adapter, explains itself; chaining its origin would add noise.
    cause = None if isinstance(error, AsynctasqError) else error
    raise _as_serialization_error(error, path) from cause


def _children(value: Any, path: str) -> Iterator[tuple[str, object]]:
    if (form := form_of(type(value))) is not None:
        yield from ((f"{path}.{name}", getattr(value, name)) for name in form.fields)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield f"{path}, key {key!r:.50}", key
            yield f"{path}[{key!r:.50}]", item
    elif isinstance(value, list | tuple):
        yield from ((f"{path}[{i}]", item) for i, item in enumerate(value))
    elif isinstance(value, set | frozenset):
        yield from ((f"{path}{{...}}", item) for item in value)


def _as_serialization_error(error: Exception, path: str) -> SerializationError:
    if isinstance(error, SerializationError):
        return error if error.path else type(error)(error.problem, path)
    if isinstance(error, UnicodeEncodeError):
        return SerializationError("str holds lone surrogates, which UTF-8 has no form for", path)
    if isinstance(error, ValueError | RecursionError) and "recursion" in str(error):
        return SerializationError(_TOO_DEEP, path)
    return SerializationError(f"{type(error).__name__}: {error}", path)

"""Arguments and results as bytes; `decoder` brings them back exactly as they went.

Owns the rule that what msgpack has no form for travels as an extension type, so that no value of a
user's can be mistaken for one of ours.
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

    def is_opaque(self, value: Any) -> bool:
        """Whether its parts do not travel one by one: a model's instance, or what nobody knows."""
        cls = type(value)
        if cls not in self._known and (form := form_of(cls)) is not None and form.fields:
            return True
        return cls not in _CONTAINER_CODES and self._owner_of(value) is not None

    def pack(self, value: object) -> bytes:
        """The value as bytes; raises whatever stands in the way, without the place."""
        packed = self._packed(value)
        if _may_hold_foreign(packed):
            _refuse_foreign(value)
        return packed

    def _packed(self, value: object) -> bytes:
        # The buffer grows as needed; its default size costs more than packing a usual call does.
        packer = msgpack.Packer(default=self.default, strict_types=True, buf_size=1024)
        packed: bytes = packer.pack(value)
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
        return self._packed(body)

    def _object(self, value: object) -> list[object]:
        cls = type(value)
        if cls in _registered:
            tag, encode = _registered[cls]
            return [tag, _of_another_type(encode(value), cls)]
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


#: What `default` may return besides extension types; not `int`, which may be too large.
_PACKED_AS_THEY_ARE = frozenset({str, bytes, float, bool, type(None), list, dict})


#: What msgpack has forms for that would come back as something else, with what to do instead.
_FOREIGN: dict[type, str] = {
    bytearray: "pass bytes(...)",
    memoryview: "pass bytes(...)",
    msgpack.ExtType: "use a type of your own with register_type(...)",
    msgpack.Timestamp: "pass a datetime",
}

#: One of these begins each of them; they may stand in text and numbers too.
_FOREIGN_BYTES = bytes((*range(0xC4, 0xCA), *range(0xD4, 0xD9)))

#: From here on it is faster to look for one of them after the other, and to end with the first.
_MANY_BYTES = 1024


def _may_hold_foreign(packed: bytes) -> bool:
    if len(packed) > _MANY_BYTES:
        return any(map(packed.__contains__, _FOREIGN_BYTES))
    return len(packed.translate(None, _FOREIGN_BYTES)) < len(packed)


def _refuse_foreign(value: Any) -> None:
    """Raise for one of these types among what msgpack packed without asking `default`."""
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
    """What `register_type`'s encode gave; its `str(value)` may have given the value itself."""
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

"""Arguments and results as bytes, and back exactly as they went.

Owns two rules. What msgpack has no form for travels as an extension type, so no value of a user's
can be mistaken for one of ours. Decoding never imports or calls what the bytes name: a tag selects
among the types that were registered or that the task's own annotations name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

import msgpack

from . import scalars
from .errors import InvalidMessage, InvalidReference, SerializationError
from .references import Ref

REF, TUPLE, SET, FROZENSET, OBJECT = 1, 9, 10, 11, 12

#: How deep extension types may nest; containers of msgpack's own are bounded by its decoder.
MAX_EXTENSION_DEPTH = 32

Encode = Callable[[Any], Any]
Decode = Callable[[Any], Any]

_registered: dict[type, tuple[str, Encode]] = {}
_registered_tags: dict[str, Decode] = {}


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
    _registered_tags[tag] = decode


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
    """

    __slots__ = ("_known", "_owner_of", "models")

    def __init__(
        self, owner_of: Callable[[object], Owner | None], known: Mapping[type, str]
    ) -> None:
        self._owner_of = owner_of
        self._known = known
        self.models: list[tuple[Owner, object]] = []

    def owns(self, value: object) -> bool:
        """Whether an adapter owns the value, so that nobody else may look inside it."""
        return type(value) not in _CONTAINER_CODES and self._owner_of(value) is not None

    def pack(self, value: object) -> bytes:
        """The value as bytes; raises whatever stands in the way, without the place."""
        packed: bytes = msgpack.packb(value, default=self.default, strict_types=True)
        return packed

    def default(self, value: object) -> msgpack.ExtType:
        """The extension type of a value that msgpack has no form for."""
        cls = type(value)
        if (scalar := scalars.ENCODERS.get(cls)) is not None:
            code, encode = scalar
            return msgpack.ExtType(code, encode(value).encode())
        if cls in _CONTAINER_CODES:
            return msgpack.ExtType(_CONTAINER_CODES[cls], self.pack(list(value)))  # type: ignore[call-overload]
        if (owner := self._owner_of(value)) is not None:
            self.models.append((owner, value))
            return msgpack.ExtType(REF, self.pack(_ref_map(owner.name, owner.to_ref(value))))
        return msgpack.ExtType(OBJECT, self.pack(self._object(value)))

    def _object(self, value: object) -> list[object]:
        cls = type(value)
        if cls in _registered:
            tag, encode = _registered[cls]
            return [tag, encode(value)]
        if (known := self._known.get(cls)) is not None:
            return [known, value.value if isinstance(value, Enum) else _fields(value)]
        raise SerializationError(
            f"{cls.__module__}.{cls.__qualname__} cannot be put on the queue; "
            + ("annotate the parameter with it or use " if _is_plain(cls) else "use ")
            + "register_type(...)"
        )


_CONTAINER_CODES: dict[type, int] = {tuple: TUPLE, set: SET, frozenset: FROZENSET}


def _is_plain(cls: type) -> bool:
    return dataclasses.is_dataclass(cls) or issubclass(cls, Enum)


def _fields(value: object) -> dict[str, object]:
    return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}  # type: ignore[arg-type]


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
) -> Encoded:
    """Encode the arguments of one call.

    Args:
        names: The parameters' names, so that an error can name the argument.

    Raises:
        SerializationError: Names the path and the type of the first value that cannot travel.
    """
    encoder = Encoder(owner_of, known)
    try:
        return Encoded(encoder.pack([list(args), dict(kwargs)]), encoder.models)
    except Exception as e:  # adapters' and register_type's code runs inside
        positional = zip(_positional_names(names), args, strict=False)
        for name, value in [*positional, *kwargs.items()]:
            locate(value, name, Encoder(owner_of, known))
        raise _as_serialization_error(e, "") from e


def encode_value(
    value: object, path: str, owner_of: Callable[[object], Owner | None], known: Mapping[type, str]
) -> bytes:
    """Encode one value, such as a result; errors are located below `path`."""
    encoder = Encoder(owner_of, known)
    try:
        return encoder.pack(value)
    except Exception as e:  # adapters' and register_type's code runs inside
        locate(value, path, Encoder(owner_of, known))
        raise _as_serialization_error(e, path) from e


def _positional_names(names: Sequence[str]) -> Iterator[str]:
    yield from names
    i = len(names)
    while True:
        yield f"args[{i}]"
        i += 1


def locate(value: object, path: str, encoder: Encoder, depth: int = 0) -> None:
    """Raise the error of the innermost value below `path` that cannot be encoded, if there is one.

    Only walked after an encoding has failed, so that success costs nothing.
    """
    try:
        encoder.pack(value)
    except Exception as e:  # adapters' and register_type's code runs inside
        if depth < 100 and not encoder.owns(value):
            for child_path, child in _children(value, path):
                locate(child, child_path, encoder, depth + 1)
        raise _as_serialization_error(e, path) from e


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
        return SerializationError("nested too deep, or contains itself", path)
    return SerializationError(f"{type(error).__name__}: {error}", path)


# --- decoding ---------------------------------------------------------------------------


@dataclass(slots=True)
class Decoder:
    """One decoding.

    Attributes:
        known: Types that the annotations name, by tag.
        instances: What takes the references' places, in the order in which they stand.
        refs: With `collecting`: the references met so far.
        collecting: Only collect references; build nothing and call nobody's code.
    """

    known: Mapping[str, type] = field(default_factory=dict)
    instances: Iterator[object] = iter(())
    refs: list[Ref] = field(default_factory=list)
    collecting: bool = False
    _depth: int = 0

    def unpack(self, data: bytes) -> Any:
        """The value in these bytes; raises whatever stands in the way."""
        return msgpack.unpackb(data, ext_hook=self.extension, strict_map_key=False)

    def extension(self, code: int, data: bytes) -> object:
        """The value of an extension type."""
        if (decode := scalars.DECODERS.get(code)) is not None:
            return decode(data.decode())
        self._depth += 1
        if self._depth > MAX_EXTENSION_DEPTH:
            raise InvalidMessage(f"extension types nest deeper than {MAX_EXTENSION_DEPTH}")
        value = self._nested(code, data)
        self._depth -= 1
        return value

    def _nested(self, code: int, data: bytes) -> object:
        if code == REF:
            return self._reference(data)
        content = self.unpack(data)
        if not isinstance(content, list):
            raise InvalidMessage(f"extension type {code} without an array in it")
        if self.collecting:
            return None
        if code in _CONTAINERS:
            return _CONTAINERS[code](content)
        if code == OBJECT and len(content) == 2 and isinstance(content[0], str):
            return self._object(*content)
        raise InvalidMessage(f"unknown extension type {code}")

    def _reference(self, data: bytes) -> object:
        if not self.collecting:
            return next(self.instances)
        self.refs.append(_ref(msgpack.unpackb(data, ext_hook=_scalar_only)))
        return None

    def _object(self, tag: str, content: Any) -> object:
        if (decode := _registered_tags.get(tag)) is not None:
            return decode(content)
        cls = self.known.get(tag)
        if cls is None:
            raise InvalidMessage(f"{tag[:200]!r} is no type that the task's annotations name")
        if issubclass(cls, Enum):
            return cls(content)
        return _dataclass(cls, content)


_CONTAINERS: dict[int, Callable[[list[Any]], object]] = {
    TUPLE: tuple,
    SET: set,
    FROZENSET: frozenset,
}


def _dataclass(cls: type, content: Any) -> object:
    declared = {f.name: f for f in dataclasses.fields(cls)}
    if not isinstance(content, dict) or not content.keys() <= declared.keys():
        raise InvalidMessage(f"fields that do not belong to {cls.__qualname__}")
    value: object = cls(**{k: v for k, v in content.items() if declared[k].init})
    for name, item in content.items():
        if not declared[name].init:
            object.__setattr__(value, name, item)
    return value


def _scalar_only(code: int, data: bytes) -> object:
    if (decode := scalars.DECODERS.get(code)) is None:
        raise InvalidReference(f"extension type {code} in a reference")
    return decode(data.decode())


def _ref(body: Any) -> Ref:
    if not isinstance(body, dict) or len(body) > 3:
        raise InvalidReference("a reference that is not a map of its two or three keys")
    body = dict(body)
    model, db = body.pop("__orm_class__", None), body.pop("__orm_db__", None)
    if len(body) != 1 or not isinstance(model, str) or not isinstance(db, str | None):
        raise InvalidReference("a reference that is not a map of its two or three keys")
    (marker, pk), *_ = body.items()
    if not (isinstance(marker, str) and marker.startswith("__orm:") and marker.endswith("__")):
        raise InvalidReference("a reference without a marker")
    if isinstance(pk, list):
        pk = tuple(pk)
    if isinstance(pk, dict) or (isinstance(pk, tuple) and any(isinstance(v, list | dict) for v in pk)):
        raise InvalidReference("a reference whose key is neither a scalar nor a flat array")
    return Ref(model=model, pk=pk, db=db, orm=marker[6:-2])


def holds_references(payload: bytes) -> bool:
    """Whether there may be references in it; a cheap test that spares plain tasks a decoding."""
    return b"__orm:" in payload


def collect_references(payload: bytes) -> list[tuple[int | str, list[Ref]]]:
    """The references of each argument, by position or name, in the order in which they stand.

    Raises:
        InvalidReference: One of them is none.
        InvalidMessage: The payload is damaged.
    """
    decoder = Decoder(collecting=True)
    unpacker = msgpack.Unpacker(
        ext_hook=decoder.extension, strict_map_key=False, max_buffer_size=len(payload)
    )
    unpacker.feed(payload)
    found: list[tuple[int | str, list[Ref]]] = []
    with damaged_input():
        if unpacker.read_array_header() != 2:
            raise InvalidMessage("the arguments are not a pair")
        for i in range(unpacker.read_array_header()):
            _collect_one(unpacker, decoder, i, found)
        for _ in range(unpacker.read_map_header()):
            _collect_one(unpacker, decoder, unpacker.unpack(), found)
    return found


def _collect_one(
    unpacker: msgpack.Unpacker,
    decoder: Decoder,
    argument: int | str,
    found: list[tuple[int | str, list[Ref]]],
) -> None:
    decoder.refs = []
    unpacker.unpack()
    if decoder.refs:
        found.append((argument, decoder.refs))


def decode_arguments(
    payload: bytes, known: Mapping[str, type], instances: Sequence[object] = ()
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call, with `instances` in the references' places.

    Raises:
        InvalidMessage: The payload is damaged, or holds what the task's annotations do not name.
    """
    value = decode_value(payload, known, instances)
    if not (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], list)
        and isinstance(value[1], dict)
        and all(isinstance(name, str) for name in value[1])
    ):
        raise InvalidMessage("the arguments are not an array and a map")
    return value[0], value[1]


def decode_value(
    payload: bytes, known: Mapping[str, type], instances: Sequence[object] = ()
) -> Any:
    """One value, as `encode_value` wrote it."""
    try:
        return Decoder(known, iter(instances)).unpack(payload)
    except (InvalidMessage, InvalidReference):
        raise
    except Exception as e:  # a registered type's decode runs inside
        raise InvalidMessage(f"the payload is damaged: {type(e).__name__}: {e}"[:500]) from e


class damaged_input:  # noqa: N801 - reads as a statement
    """Turns whatever decoding damaged bytes raises into `InvalidMessage`."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, InvalidMessage | InvalidReference):
            raise InvalidMessage(f"damaged bytes: {type(error).__name__}: {error}"[:500]) from error

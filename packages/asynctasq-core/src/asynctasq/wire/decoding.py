"""Decodes arguments and results.

Owns the rule that decoding never imports or calls anything that the bytes name: a name only selects
among registered types and the types in the task's own annotations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import Any

import msgpack

from ..errors import AsynctasqError, InvalidMessage, InvalidReference, UnknownArguments
from . import scalars
from .encoding import FROZENSET, MAX_EXTENSION_DEPTH, OBJECT, REF, SET, TUPLE, registered_names
from .forms import form_of
from .hashing import dict_of, set_of
from .reference import Ref


@dataclass(slots=True)
class Decoder:
    """The state of one decoding.

    Attributes:
        known: Types in the annotations, by their name on the wire.
        instances: What replaces the references, in the order they appear.
        refs: With `collecting`: the references found so far.
        collecting: Only collect references; build nothing and call no one's code.
    """

    known: Mapping[str, type] = field(default_factory=dict)
    instances: Iterator[object] = field(default_factory=lambda: iter(()))
    refs: list[Ref] = field(default_factory=list)
    collecting: bool = False
    _is_large: bool = False
    _depth: int = 0

    def unpack(self, data: bytes) -> Any:
        """The value in these bytes; any error propagates as it is."""
        _check_lengths(data)
        return msgpack.unpackb(data, **self.hooks(data))

    def hooks(self, data: bytes) -> dict[str, Any]:
        """Options for msgpack; in large payloads, dicts are checked for colliding keys."""
        self._is_large |= len(data) > _SMALL_BYTES
        hooks: dict[str, Any] = {"ext_hook": self.extension, "strict_map_key": False}
        if self._is_large and (b"\xde" in data or b"\xdf" in data):
            hooks["object_pairs_hook"] = _nothing if self.collecting else dict_of
        return hooks

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
        if code == TUPLE:
            return tuple(content)
        if code in (SET, FROZENSET):
            members = set_of(content) if self._is_large else set(content)
            return members if code == SET else frozenset(members)
        if code == OBJECT and len(content) == 2 and isinstance(content[0], str):
            return self._object(*content)
        raise InvalidMessage(f"unknown extension type {code}")

    def _reference(self, data: bytes) -> object:
        if not self.collecting:
            return next(self.instances)
        self.refs.append(_ref(data))
        return None

    def _object(self, name: str, content: Any) -> object:
        if (decode := registered_names.get(name)) is not None:
            return decode(content)
        cls = self.known.get(name)
        if cls is None:
            raise UnknownArguments(f"{name[:200]!r} is not a type that the task's annotations name")
        form = form_of(cls)
        if form is None:
            raise InvalidMessage(f"{name[:200]!r} is not a type whose instances travel")
        return form.make(content)


#: In payloads up to this size, false lengths can claim only little memory.
_SMALL_BYTES = 4096


def _check_lengths(data: bytes) -> None:
    """Skip over the value without building it; raise if an array is shorter than it claims.

    msgpack allocates room for as many items as an array's header claims, up to eight times the size
    of the whole payload, and does so again for each nested array: one megabyte could take
    gigabytes.
    """
    if len(data) > _SMALL_BYTES and (b"\xdd" in data or b"\xdc" in data):
        unpacker = msgpack.Unpacker(max_buffer_size=len(data))
        unpacker.feed(data)
        unpacker.skip()


def _nothing(pairs: object) -> None:
    """Build nothing: the dict's references have been collected already."""


#: More keys than any reference has, so that msgpack does not even build a large map.
_MOST_REFERENCE_KEYS = 8


def _scalar_only(code: int, data: bytes) -> object:
    if (decode := scalars.DECODERS.get(code)) is None:
        raise InvalidReference(f"extension type {code} in a reference")
    return decode(data.decode())


def _ref(data: bytes) -> Ref:
    if len(data) > _SMALL_BYTES:
        _check_lengths(data)
    body = msgpack.unpackb(data, ext_hook=_scalar_only, max_map_len=_MOST_REFERENCE_KEYS)
    if type(body) is not dict or not 2 <= len(body) <= 3:
        raise InvalidReference("a reference that is not a map of its two or three keys")
    model = body.pop("__orm_class__", None)
    db = body.pop("__orm_db__", None) if len(body) == 2 else None
    if len(body) != 1 or type(model) is not str or (db is not None and type(db) is not str):
        raise InvalidReference("a reference that is not a map of its two or three keys")
    marker, pk = body.popitem()
    if type(pk) is not str and (type(pk) is not int or pk.bit_length() > 64):
        pk = _checked_key(pk)
    return Ref(model, pk, db, _orm_of(marker))


@lru_cache(maxsize=128)
def _orm_of(marker: object) -> str:
    if not (isinstance(marker, str) and marker.startswith("__orm:") and marker.endswith("__")):
        raise InvalidReference("a reference without a marker")
    return marker[6:-2]


def _checked_key(pk: Any) -> Any:
    if isinstance(pk, list):
        pk = tuple(pk)
    if isinstance(pk, dict) or (
        isinstance(pk, tuple) and any(isinstance(v, list | dict) for v in pk)
    ):
        raise InvalidReference("a reference whose key is neither a scalar nor a flat array")
    if any(map(_is_enormous, pk if isinstance(pk, tuple) else (pk,))):
        raise InvalidReference("a reference whose key is a number of more than 1000 digits")
    return pk


def _is_enormous(part: object) -> bool:
    """Whether an ORM would take minutes to convert the number to its column's type."""
    if isinstance(part, Decimal):
        return part.is_finite() and (part.adjusted() > 1000 or len(part.as_tuple().digits) > 1000)
    return isinstance(part, int) and part.bit_length() > 3322


def holds_references(payload: bytes) -> bool:
    """Whether the payload may hold references; a cheap test that spares plain tasks a decoding."""
    return b"__orm:" in payload


@dataclass(slots=True)
class Arguments:
    """The arguments of a call whose rows have not been fetched yet.

    Attributes:
        payload: The encoded arguments.
        references: The references of each argument, by position or name, in the order they appear.
        args: The positional arguments, if every reference is an argument by itself: each holds the
            place of its row. `None` if references are nested, or if decoding would build the
            application's types.
        kwargs: The same for keyword arguments.
    """

    payload: bytes
    references: list[tuple[int | str, list[Ref]]]
    args: list[Any] | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)

    def with_instances(
        self, known: Mapping[str, type], instances: Sequence[object]
    ) -> tuple[list[Any], dict[str, Any]]:
        """The arguments with references replaced by `instances`, as `decode_arguments` does."""
        if self.args is None:
            return decode_arguments(self.payload, known, instances)
        for (argument, _), instance in zip(self.references, instances, strict=True):
            if isinstance(argument, str):
                self.kwargs[argument] = instance
            else:
                self.args[argument] = instance
        return self.args, self.kwargs


def read_arguments(payload: bytes) -> Arguments:
    """Read arguments that hold references, decoding them right away where possible.

    Raises:
        InvalidReference: One of the references is malformed.
        InvalidMessage: The payload is damaged.
    """
    # Large payloads need the checks of the slower path.
    if len(payload) <= _SMALL_BYTES and (arguments := _read_at_once(payload)) is not None:
        return arguments
    return Arguments(payload, collect_references(payload))


class _NotAtOnce(Exception):
    """An extension type that nests others, or whose decoding may run the application's code."""


def _read_at_once(payload: bytes) -> Arguments | None:
    """The arguments, if every reference is an argument by itself and nothing needs building."""
    count = 0

    def extension(code: int, data: bytes) -> object:
        nonlocal count
        if code == REF:
            count += 1
            return _ref(data)
        if (decode := scalars.DECODERS.get(code)) is not None:
            return decode(data.decode())
        raise _NotAtOnce

    try:
        args, kwargs = msgpack.unpackb(payload, ext_hook=extension, strict_map_key=False)
        found: list[tuple[int | str, list[Ref]]]
        found = [(i, [part]) for i, part in enumerate(args) if type(part) is Ref]
        if kwargs:
            found += [(name, [part]) for name, part in kwargs.items() if type(part) is Ref]
    except InvalidReference:
        raise
    except Exception:  # noqa: BLE001 - `_NotAtOnce`, or damage, which `collect_references` reports
        return None
    if len(found) < count or type(args) is not list or not all(type(n) is str for n in kwargs):
        return None
    return Arguments(payload, found, args, kwargs)


def collect_references(payload: bytes) -> list[tuple[int | str, list[Ref]]]:
    """The references of each argument, by position or name, in the order they appear.

    Raises:
        InvalidReference: One of them is malformed.
        InvalidMessage: The payload is damaged.
    """
    try:
        return _collected(payload)
    except (InvalidMessage, InvalidReference):
        raise
    except Exception as e:  # noqa: BLE001 - whatever decoding damaged bytes raises
        raise InvalidMessage(f"damaged bytes ({type(e).__name__})") from None


def _collected(payload: bytes) -> list[tuple[int | str, list[Ref]]]:
    decoder = Decoder(collecting=True)
    _check_lengths(payload)
    unpacker = msgpack.Unpacker(**decoder.hooks(payload), max_buffer_size=len(payload))
    unpacker.feed(payload)
    found: list[tuple[int | str, list[Ref]]] = []
    if unpacker.read_array_header() != 2:
        raise InvalidMessage("the arguments are not a pair")
    for i in range(unpacker.read_array_header()):
        _collect_one(unpacker, decoder, i, found)
    for _ in range(unpacker.read_map_header()):
        name = unpacker.unpack()
        if not isinstance(name, str):
            raise InvalidMessage("an argument whose name is not text")
        _collect_one(unpacker, decoder, name, found)
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


#: Many calls have no arguments; their payload needs no decoding.
_NO_ARGUMENTS: bytes = msgpack.packb([[], {}])


def decode_arguments(
    payload: bytes, known: Mapping[str, type], instances: Sequence[object] = ()
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call, with references replaced by `instances`.

    Raises:
        InvalidMessage: The payload is damaged, or holds a type that the annotations do not name.
    """
    if payload == _NO_ARGUMENTS:
        return [], {}
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
    """Decode one value written by `encode_value`.

    Raises:
        InvalidMessage: The bytes are damaged, or hold a type that the annotations do not name.
        AsynctasqError: A lazy instance raised it when a set hashed it.
    """
    try:
        return Decoder(known, iter(instances)).unpack(payload)
    except AsynctasqError:  # including one from a row that is fetched when first hashed
        raise
    except Exception as e:  # noqa: BLE001 - a registered type's decode runs inside
        # Leave out the error and its traceback: both may show arguments.
        raise InvalidMessage(f"the payload is damaged ({type(e).__name__})") from None

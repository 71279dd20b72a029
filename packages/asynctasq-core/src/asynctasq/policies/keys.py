"""Keys: text that in every process is the same for the same values, and different for others.

A key shows people what it stands for, and ends with a digest of its values in the form in which
they travel: a model instance as its reference, 1 distinct from "1", sets and dicts in one order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import msgpack

from ..adapters.plugins import Adapters
from ..tasks.call import Call
from ..tasks.policies import Keyed, names
from ..wire.encoding import FROZENSET, OBJECT, REF, SET, TUPLE, encode_value

_DIGEST_BYTES = 10
_LONGEST_TEXT = 40


@dataclass(frozen=True, slots=True)
class KeyArguments:
    """The arguments of a call by parameter name, with defaults filled in."""

    call: Call[Any]
    adapters: Adapters

    @property
    def values(self) -> Mapping[str, Any]:
        """All of them."""
        bound = self.call.task.signature.bind(*self.call.args, **self.call.kwargs)
        bound.apply_defaults()
        return bound.arguments

    def value(self, name: str) -> Any:
        """One of them; avoids binding them all, which is expensive."""
        call = self.call
        positional = call.task.parameter_names
        if name in positional and (i := positional.index(name)) < len(call.args):
            return call.args[i]
        return self.values[name]

    def key(self, scope: str, policy: Keyed) -> str:
        """The key of a policy.

        Args:
            scope: Keeps it apart from other keys: the task's name, or a name that tasks share.

        Raises:
            SerializationError: A value in the key cannot travel.
        """
        parts = self._parts(policy)
        if not parts:
            return scope
        digest = blake2b(digest_size=_DIGEST_BYTES)
        texts = []
        for name, value in parts.items():
            packed = self._packed(name, value)
            if type(value) in _PLAIN and packed[0] not in _EXTENSIONS:
                digest.update(msgpack.packb([name, packed]))  # unambiguous
                texts.append(f"{name}={_shortened(str(value))}")
                continue
            digest.update(msgpack.packb([name, canonical(packed)]))
            texts.append(f"{name}={shown(value, packed)}")
        return f"{scope} {', '.join(texts)} {digest.hexdigest()}"

    def _parts(self, policy: Keyed) -> Mapping[str, Any]:
        if callable(policy.by):
            return {"by": policy.by(*self.call.args, **self.call.kwargs)}
        return {name: self.value(name) for name in names(policy)}

    def _packed(self, name: str, value: Any) -> bytes:
        adapters, type_names = self.adapters, self.call.task.annotations.type_names
        return encode_value(value, name, adapters.owner_of, type_names, adapters.plain_form)


def canonical(packed: bytes) -> bytes:
    """Bytes that are the same for the same value, whatever the order of its sets and dicts."""
    return _repacked(_unpack(packed))


def _repacked(value: Any) -> bytes:
    if isinstance(value, _Pairs):
        pairs = sorted(_repacked(key) + _repacked(item) for key, item in value.pairs)
        return _joined(b"map", pairs)
    if isinstance(value, list):
        return _joined(b"list", map(_repacked, value))
    if isinstance(value, msgpack.ExtType) and value.code in _PACKED_INSIDE:
        inside = _unpack(value.data)
        kind = b"ext%d" % value.code
        if value.code in (SET, FROZENSET):
            return _joined(kind, sorted(map(_repacked, inside)))
        return _joined(kind, [_repacked(inside)])
    packed: bytes = msgpack.packb(value)
    return packed


_PACKED_INSIDE = frozenset({REF, TUPLE, SET, FROZENSET, OBJECT})


@dataclass(frozen=True, slots=True)
class _Pairs:
    """A map; its keys need not be hashable."""

    pairs: Sequence[tuple[Any, Any]]


def _unpack(packed: bytes) -> Any:
    return msgpack.unpackb(
        packed, object_pairs_hook=lambda pairs: _Pairs([*pairs]), strict_map_key=False
    )


def _joined(kind: bytes, parts: Any) -> bytes:
    """Pack parts with their lengths, so that different lists never pack to the same bytes."""
    packed: bytes = msgpack.packb([kind, *parts])
    return packed


def shown(value: Any, packed: bytes) -> str:
    """A value as people see it: `Order#5` for a row, and never long."""
    head = _unpack(packed)
    if isinstance(head, msgpack.ExtType) and head.code == REF:
        return _row(_unpack(head.data))
    return _shortened(str(value) if isinstance(value, _PLAIN) else type(value).__name__)


def _shortened(text: str) -> str:
    text = text[:_LONGEST_TEXT]
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


_PLAIN = (str, int, float, bool, type(None))

#: First bytes of msgpack's extension types.
_EXTENSIONS = frozenset((0xC7, 0xC8, 0xC9, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8))


def _row(reference: _Pairs) -> str:
    found = dict(reference.pairs)
    model = str(found["__orm_class__"]).rpartition(".")[2]
    [pk] = [v for k, v in found.items() if k.startswith("__orm:")]
    keys = pk if isinstance(pk, list) else [pk]
    return f"{model}#{','.join(map(_plain_key, keys))}"[: 2 * _LONGEST_TEXT]


def _plain_key(key: Any) -> str:
    return key.data.decode(errors="replace") if isinstance(key, msgpack.ExtType) else str(key)

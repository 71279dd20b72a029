"""The message: one call on a queue, as bytes.

Owns the wire format and its version. A message is a msgpack array. With signing keys, a marker byte
that no msgpack value starts with and a signature (a keyed BLAKE2b hash) precede it, and nothing is
decoded before the signature has been verified.
"""

from __future__ import annotations

import hmac
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from time import time_ns
from typing import Any

import msgpack

from ..errors import BadSignature, InvalidMessage, UnsupportedVersion

VERSION = 1
SIGNED = b"\xc1"
SIGNATURE_BYTES = 16
MESSAGE, RESULT = b"asynctasq-msg", b"asynctasq-result"


#: Random bytes fetched ahead, so that one system call serves many ids; a fork fetches its own.
_random = io.BytesIO()


def new_id() -> str:
    """A new message id: 12 hexadecimal digits of time, then 20 from the system's random source.

    Time comes first so that a broker's index over ids grows at its end: in SQLite, with a million
    messages waiting, random ids made each message 50% more expensive.
    """
    while len(drawn := _random.read(10)) < 10:
        _renew_random()
    return f"{time_ns() // 1_000_000:012x}{drawn.hex()}"


def _renew_random() -> None:
    global _random
    _random = io.BytesIO(os.urandom(4000))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_random)


def moment_ms(seconds: float) -> int:
    """A Unix time in milliseconds, clamped to the 15 digits that a message header holds."""
    return int(min(max(seconds, 0.0) * 1000, 10.0**15 - 1))


@dataclass(slots=True)
class Message:
    """One call of a task.

    Attributes:
        id: The same for every attempt, and after a dead letter is retried.
        task: The task's name.
        payload: The encoded arguments.
        attempt: 1 for the first run.
        enqueued_at: When it was dispatched; Unix time in seconds.
        options: Task options that this call overrides.
        headers: Strings by name, for tracing.
        postponed: How often in a row a run was put off by anything but the task itself.
        snoozes: How often the task itself put the call off.
        unknown_since_ms: When a worker first failed to recognise what the message names; Unix time
            in milliseconds, 0 for never.
        outage_since_ms: When the outage that puts its runs off began; Unix time in milliseconds,
            0 for none.
        due_ms: When the next run is due; Unix time in milliseconds, 0 for right after dispatch.
        resumed: 1 if a run has left a checkpoint for the next one, else 0.
        flow: What follows the call and its place in a batch, encoded by `flow.Flow`; mostly empty.
        queue: The queue it was taken from; empty if it was not taken. Not on the wire.
        checkpoint: What the call's last run left with `checkpoint`; `None` if nothing. Not on the
            wire.
    """

    id: str
    task: str
    payload: bytes = field(repr=False)  # keep arguments out of tools that log local variables
    enqueued_at: float
    attempt: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    postponed: int = 0
    snoozes: int = 0
    unknown_since_ms: int = 0
    outage_since_ms: int = 0
    due_ms: int = 0
    resumed: int = 0
    flow: bytes = field(default=b"", repr=False)
    queue: str = ""
    checkpoint: Any = None

    def encode(self, keys: Sequence[bytes] = ()) -> bytes:
        """The bytes for a queue, signed with the first key if there is one."""
        marks = self.unknown_since_ms or self.outage_since_ms or self.due_ms or self.resumed
        parts = (
            VERSION,
            self.id,
            self.task,
            self.attempt,
            self.enqueued_at,
            self.options,
            self._marked_headers() if self.snoozes or marks else self.headers,
            self.postponed,
            self.payload,
        )
        if self.flow:
            parts = (*parts, self.flow)  # type: ignore[assignment]
        packed: bytes = msgpack.Packer(buf_size=len(self.payload) + 256).pack(parts)
        return sign(packed, keys, MESSAGE) if keys else packed

    def anew(self) -> Message:
        """The message as before its first run, except that it keeps its checkpoint."""
        counts: dict[str, Any] = dict.fromkeys(_MARKS.values(), 0) | {"resumed": self.resumed}
        return replace(self, attempt=1, postponed=0, **counts)

    @classmethod
    def decode(cls, body: bytes, keys: Sequence[bytes] = (), max_bytes: int = 0) -> Message:
        """Decode a message, leaving its arguments encoded.

        Args:
            keys: If any are given, one of them must have signed the message.
            max_bytes: Refuse a larger body unread; 0 for no limit.

        Raises:
            BadSignature: It is unsigned, or signed with another key.
            UnsupportedVersion: An incompatible version wrote it.
            InvalidMessage: Anything else that is not a message.
        """
        if max_bytes and len(body) > max_bytes:
            raise InvalidMessage(f"{len(body)} bytes, more than max_payload_bytes ({max_bytes})")
        packed = verify(body, keys, MESSAGE)
        try:
            parts = msgpack.unpackb(packed, **_LIMITS)
        except (ValueError, msgpack.UnpackException, TypeError) as e:
            raise InvalidMessage(f"not a message: {type(e).__name__}") from e
        flow = b""
        if type(parts) is list and len(parts) == len(_TYPES) + 1 and type(parts[-1]) is bytes:
            flow = parts.pop()
        if type(parts) is not list or [*map(type, parts)] != _TYPES or parts[0] != VERSION:
            raise _what_is_wrong(parts)
        _, id_, task, attempt, enqueued_at, options, headers, postponed, payload = parts
        marks: dict[str, Any] = {}
        if not 1 <= attempt < 2**31 or not 0 <= postponed < 2**31:
            raise InvalidMessage("a message whose counts are out of range")
        if headers:
            if not all(type(text) is str for item in headers.items() for text in item):
                raise InvalidMessage("a message whose headers are not text")
            marks = _without_marks(headers)
        counted = (attempt, options, headers, postponed)
        return cls(id_, task, payload, enqueued_at, *counted, flow=flow, **marks)

    def _marked_headers(self) -> dict[str, str]:
        """The headers, plus those that carry rare attributes (`_MARKS`)."""
        marks = {mark: getattr(self, name) for mark, name in _MARKS.items()}
        return {**self.headers, **{mark: str(value) for mark, value in marks.items() if value}}


#: Headers that carry rare attributes, so that most messages do not pay for them.
_MARKS = {
    "asynctasq-snoozes": "snoozes",
    "asynctasq-unknown-since-ms": "unknown_since_ms",
    "asynctasq-outage-since-ms": "outage_since_ms",
    "asynctasq-due-ms": "due_ms",
    "asynctasq-resumed": "resumed",
}

#: Headers that senders may not set.
RESERVED_HEADERS = frozenset(_MARKS)


def _without_marks(headers: dict[str, str]) -> dict[str, Any]:
    """Move the rare attributes out of the headers.

    Raises:
        InvalidMessage: One of them is not a number.
    """
    marks: dict[str, Any] = {}
    for mark, name in _MARKS.items():
        if (text := headers.pop(mark, None)) is None:
            continue
        if not (text.isascii() and text.isdigit() and len(text) <= 15):
            raise InvalidMessage(f"a message whose header {mark} is not a number")
        marks[name] = int(text)
    return marks


#: More than any version needs, so that damaged bytes cannot claim memory through a false header.
_LIMITS = {"max_array_len": 64, "max_map_len": 1000, "max_ext_len": 0}
_TYPES = [int, str, str, int, float, dict, dict, int, bytes]


def _what_is_wrong(parts: object) -> InvalidMessage | UnsupportedVersion:
    if not isinstance(parts, list) or not parts or not isinstance(parts[0], int):
        return InvalidMessage("not a message")
    if parts[0] != VERSION:
        return UnsupportedVersion(f"message version {parts[0]}; this worker reads {VERSION}")
    return InvalidMessage("a message whose parts have the wrong number or types")


def _signature(packed: bytes, key: bytes, purpose: bytes) -> bytes:
    return blake2b(packed, digest_size=SIGNATURE_BYTES, key=key, person=purpose).digest()


def sign(packed: bytes, keys: Sequence[bytes], purpose: bytes) -> bytes:
    """Prefix the bytes with the marker and the first key's signature; unchanged without keys."""
    return SIGNED + _signature(packed, keys[0], purpose) + packed if keys else packed


def verify(body: bytes, keys: Sequence[bytes], purpose: bytes) -> bytes:
    """Check the signature against each key in constant time, and return the bytes behind it.

    Without keys, a signature is skipped, so that signing can be switched on for senders first.

    Raises:
        BadSignature: Keys are given, and none of them made the signature.
    """
    signed = body[:1] == SIGNED
    if not keys:
        return body[1 + SIGNATURE_BYTES :] if signed else body
    if not signed:
        raise BadSignature("the message is not signed, and a signing_key is set")
    signature, packed = body[1 : 1 + SIGNATURE_BYTES], body[1 + SIGNATURE_BYTES :]
    matches = [hmac.compare_digest(signature, _signature(packed, key, purpose)) for key in keys]
    if not any(matches):
        raise BadSignature("no signing_key verifies the message")
    return packed

"""Messages: versions, signatures, and bytes that are none."""

from __future__ import annotations

import random
from typing import Any

import msgpack
import pytest
from asynctasq import BadSignature, InvalidMessage, Message, MessageError, UnsupportedVersion
from asynctasq.wire.message import MESSAGE, RESULT, SIGNATURE_BYTES, SIGNED, sign, verify

KEY, OTHER, THIRD = b"k" * 32, b"o" * 16, b"t" * 64
MESSAGE_1 = Message("id-1", "app.tasks.f", b"\x92\x90\x80", 12.5, 2, {"timeout": 3}, {"t": "1"}, 4)


def test_a_message_comes_back_as_it_was() -> None:
    for keys in ((), (KEY,), (KEY, OTHER)):
        assert Message.decode(MESSAGE_1.encode(keys), keys) == MESSAGE_1


def test_the_size_limit_is_looked_at_first() -> None:
    with pytest.raises(InvalidMessage, match="100 bytes, more than max_payload_bytes"):
        Message.decode(b"\xff" * 100, (KEY,), max_bytes=99)


def parts(**changes: Any) -> list[Any]:
    values = {"version": 1, "id": "i", "task": "t", "attempt": 1, "enqueued_at": 0.0}
    values |= {"options": {}, "headers": {}, "postponed": 0, "payload": b""}
    return [*{**values, **changes}.values()]


def test_the_parts_as_built_here_are_a_message() -> None:
    assert Message.decode(msgpack.packb(parts())).task == "t"


@pytest.mark.parametrize("version", [0, 2, -1, 2**40])
def test_an_unknown_version_is_named(version: int) -> None:
    for values in (parts(version=version), [version], [version, *range(30)]):
        with pytest.raises(UnsupportedVersion, match=f"version {version}; this worker reads 1"):
            Message.decode(msgpack.packb(values))


@pytest.mark.parametrize(
    "changes",
    [
        {"version": True},
        {"version": "1"},
        {"id": 7},
        {"id": b"i"},
        {"task": None},
        {"attempt": 0},
        {"attempt": -1},
        {"attempt": 2**31},
        {"attempt": 1.0},
        {"attempt": True},
        {"enqueued_at": 1},
        {"enqueued_at": "now"},
        {"options": []},
        {"headers": None},
        {"headers": {"a": 1}},
        {"headers": {b"a": "b"}},
        {"headers": {"a": ["b"]}},
        {"headers": {"asynctasq-snoozes": "-1"}},
        {"headers": {"asynctasq-snoozes": "9" * 16}},
        {"headers": {"asynctasq-snoozes": "²"}},
        {"headers": {"asynctasq-unknown-since-ms": ""}},
        {"postponed": -1},
        {"payload": "text"},
        {"payload": msgpack.ExtType(1, b"")},
        {"more": 1},
    ],
    ids=str,
)
def test_wrong_parts_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidMessage):
        Message.decode(msgpack.packb(parts(**changes)))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\xc1" * 17,
        b"\x00",
        b"\xc0",
        b"\x90",
        b"\x91\xc0",
        b"not a message at all",
        b"\x93\x01\x02",
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
        b"\xdd\x00\x0f\xff\xff" * 1000 + b"\xc0" * 1_000_000,
        b"\x99\x01\xd7\xff" + b"\xff" * 8,
        msgpack.packb(parts()) + b"\x00",
        msgpack.packb({"id": "i"}),
    ],
    ids=lambda body: f"{body[:6].hex()}-{len(body)}",
)
def test_bytes_that_are_no_message_are_refused(body: bytes) -> None:
    with pytest.raises(MessageError):
        Message.decode(body)
    with pytest.raises(BadSignature):
        Message.decode(body, (KEY,))


def test_every_truncation_is_refused() -> None:
    for keys in ((), (KEY,)):
        body = MESSAGE_1.encode(keys)
        for length in range(len(body)):
            with pytest.raises(MessageError):
                Message.decode(body[:length], keys)


def test_every_flipped_bit_of_a_signed_message_is_a_bad_signature() -> None:
    body = MESSAGE_1.encode((KEY,))
    for place in range(len(body)):
        for bit in range(8):
            damaged = bytearray(body)
            damaged[place] ^= 1 << bit
            with pytest.raises(BadSignature):
                Message.decode(bytes(damaged), (KEY,))


def test_random_mutations_are_refused_or_read() -> None:
    """Nothing but a `MessageError` may come of damaged bytes."""
    chance = random.Random(7)
    body = MESSAGE_1.encode()
    for _ in range(20_000):
        damaged = bytearray(body)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            Message.decode(bytes(damaged))
        except MessageError:
            continue


# --- signing ----------------------------------------------------------------------------


def test_keys_rotate_the_first_signs_and_all_verify() -> None:
    old = MESSAGE_1.encode((OTHER,))
    assert Message.decode(old, (KEY, OTHER, THIRD)) == MESSAGE_1
    assert MESSAGE_1.encode((KEY, OTHER)) == MESSAGE_1.encode((KEY,))
    with pytest.raises(BadSignature, match="no signing_key verifies"):
        Message.decode(old, (KEY,))


def test_an_unsigned_message_is_refused_once_there_is_a_key() -> None:
    with pytest.raises(BadSignature, match="not signed"):
        Message.decode(MESSAGE_1.encode(), (KEY,))


def test_senders_may_sign_before_workers_have_the_key() -> None:
    assert Message.decode(MESSAGE_1.encode((KEY,))) == MESSAGE_1


def test_the_signature_is_checked_before_anything_is_decoded() -> None:
    garbage = SIGNED + b"\x00" * SIGNATURE_BYTES + b"\xff\xff"
    with pytest.raises(BadSignature):
        Message.decode(garbage, (KEY,))
    with pytest.raises(InvalidMessage):
        Message.decode(sign(b"\xff\xff", (KEY,), MESSAGE), (KEY,))


def test_a_result_cannot_stand_for_a_message() -> None:
    packed = msgpack.packb(parts())
    with pytest.raises(BadSignature):
        Message.decode(sign(packed, (KEY,), RESULT), (KEY,))
    assert verify(sign(packed, (KEY,), RESULT), (KEY,), RESULT) == packed


def test_errors_show_neither_keys_nor_payload() -> None:
    secret = Message("i", "t", b"the secret argument", 0.0)
    for body, keys in (
        (secret.encode((KEY,)), (OTHER,)),
        (secret.encode(), (KEY,)),
        (secret.encode()[:-1], ()),
    ):
        with pytest.raises(MessageError) as caught:
            Message.decode(body, keys)
        assert "secret" not in str(caught.value)
        assert KEY.decode() not in str(caught.value)

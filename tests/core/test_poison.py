"""Hostile and damaged messages: dead letters with a reason, nothing run, the worker goes on.

`ASYNCTASQ_FUZZ=100000` says how many mutated messages the fuzzing tests make.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgpack
import pytest
from asynctasq import deadletters, task
from asynctasq.app import App
from asynctasq.brokers import Outgoing
from asynctasq.wire import class_paths as models
from asynctasq.wire.message import MESSAGE, Message, sign
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_orm import Order, Toy, User

Work = Callable[..., Awaitable[None]]

FUZZ = int(os.environ.get("ASYNCTASQ_FUZZ", "3000"))
KEY = b"a key of more than 16 bytes"

ran: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


class Color(Enum):
    RED = 1


@dataclass
class Item:
    name: str
    color: Color = Color.RED

    def __post_init__(self) -> None:
        ran.append("__post_init__")


@task
async def note(value: Any = None, *, user: User | None = None, item: Item | None = None) -> None:
    ran.append(value)


@task
async def innocent() -> None:
    ran.append("innocent")


NOTE = note.name

Put = Callable[..., Awaitable[str]]


@pytest.fixture
def put(toy: Toy) -> Put:
    """Puts bytes on the queue as they are; gives the id."""
    import asynctasq.app

    async def put(body: bytes, message_id: str = "") -> str:
        message_id = message_id or uuid4().hex
        await asynctasq.app.current().open_broker().put([Outgoing("default", message_id, body)])
        return message_id

    return put


def message(payload: bytes, message_id: str, **changes: Any) -> bytes:
    """A message that is sound but for its payload, or for what is changed."""
    values: dict[str, Any] = {"id": message_id, "task": NOTE, "enqueued_at": 0.0, **changes}
    return Message(payload=payload, **values).encode()


def arguments(*args: Any, **kwargs: Any) -> bytes:
    packed: bytes = msgpack.packb([list(args), kwargs])
    return packed


def ext(code: int, value: Any) -> msgpack.ExtType:
    return msgpack.ExtType(code, msgpack.packb(value))


def reference(model: object = "toy_orm.User", pk: Any = 1, orm: str = "toy", **more: Any) -> Any:
    return ext(1, {f"__orm:{orm}__": pk, "__orm_class__": model, **more})


async def dead_after(put: Put, work: Work, payload: bytes, **changes: Any) -> Any:
    """The dead letter that this payload becomes; an innocent message beside it has run."""
    message_id = uuid4().hex
    await put(message(payload, message_id, **changes), message_id)
    await innocent().dispatch()
    before = set(sys.modules)
    await work()
    assert ran == ["innocent"]
    letter = await deadletters.show(message_id)
    assert letter is not None
    assert letter.reason == "the message cannot be run"
    assert set(sys.modules) - before == set()
    return letter


def bomb(depth: int, header: bytes, end: bytes = b"\xc0") -> bytes:
    return header * depth + end


def ext_tower(code: int, depth: int) -> bytes:
    body: bytes = msgpack.packb([])
    for _ in range(depth):
        body = msgpack.packb([msgpack.ExtType(code, body)])
    return b"\x92" + body + b"\x80"


PAYLOADS: dict[str, bytes] = {
    "empty": b"",
    "not a pair": msgpack.packb([1, 2, 3]),
    "pair of wrong types": msgpack.packb([{}, []]),
    "scalar": b"\x01",
    "trailing": arguments() + b"\x00",
    "truncated": arguments("x" * 100)[:-1],
    "deep lists": b"\x92" + bomb(500_000, b"\x91"),
    "deep maps": b"\x92" + bomb(100_000, b"\x81\xc0"),
    "huge array": b"\x92\xdd\xff\xff\xff\xff",
    "huge map": b"\x92\x90\xdf\xff\xff\xff\xff",
    "huge str": b"\x92\x91\xdb\xff\xff\xff\xff",
    "huge ext": b"\x92\x91\xc9\xff\xff\xff\xff\x09",
    "arrays that claim memory": b"\x92" + b"\xdd\x00\x0f\x00\x00" * 1000 + b"\xc0" * 990_000,
    "tower of tuples": ext_tower(9, 2000),
    "tower of frozensets": ext_tower(11, 33),
    "tower of references": ext_tower(1, 40),
    "tower of objects": ext_tower(12, 2000),
    "reserved byte": b"\x92\x91\xc1\x80",
    "unknown extension": arguments(msgpack.ExtType(77, b"x")),
    "scalar that is none": arguments(msgpack.ExtType(2, b"yesterday")),
    "zone outside": arguments(msgpack.ExtType(2, b"2026-01-01T00:00:00[../../etc/passwd]")),
    "zone absolute": arguments(msgpack.ExtType(2, b"2026-01-01T00:00:00[/etc/passwd]")),
    "not UTF-8 text": arguments(msgpack.ExtType(6, b"\xff")),
    "number that is none": arguments(msgpack.ExtType(6, b"one")),
    "integer that is none": arguments(msgpack.ExtType(8, b"0xzz")),
    "unhashable member": arguments(ext(10, [[]])),
    "unhashable key": b"\x92\x91\x81\x90\x01\x80",
    "tuple of a map": arguments(ext(9, {})),
    "unknown type name": arguments(ext(12, ["os.system", "touch /tmp/hacked"])),
    "type name of a class": arguments(ext(12, ["builtins.eval", "1"])),
    "object without a type name": arguments(ext(12, [1])),
    "type name that is no text": arguments(ext(12, [[], 1])),
    "no such member": arguments(item=ext(12, [f"{__name__}.Color", 9])),
    "no such field": arguments(item=ext(12, [f"{__name__}.Item", {"nope": 1}])),
    "fields that are none": arguments(item=ext(12, [f"{__name__}.Item", [1]])),
    "missing field": arguments(item=ext(12, [f"{__name__}.Item", {}])),
    "too many arguments": arguments(1, 2, 3),
    "unknown argument": arguments(colour=1),
    "name that is no text": msgpack.packb([[], {1: 2}]),
    "name that is bytes": msgpack.packb([[], {b"value": 2}]),
    "name that is a reference": b"\x92\x90\x81" + msgpack.packb(reference()) + b"\x01",
    "reference in a reference": arguments(reference(pk=reference())),
    "reference with a map": arguments(reference(pk={"a": 1})),
    "reference with nested key": arguments(reference(pk=[[1]])),
    "reference with a tuple key": arguments(reference(pk=ext(9, [1]))),
    "reference without class": arguments(ext(1, {"__orm:toy__": 1})),
    "reference without marker": arguments(ext(1, {"__orm_class__": "toy_orm.User"})),
    "reference of more keys": arguments(reference(more=1)),
    "reference that is a list": arguments(ext(1, ["__orm:toy__"])),
    "reference that is empty": arguments(msgpack.ExtType(1, b"")),
    "reference with a database": arguments(reference(__orm_db__=7)),
    "reference of a class that is no text": arguments(reference(b"toy_orm.User")),
    "unknown plugin": arguments(reference(orm="mongo")),
    "plugin of no name": arguments(reference(orm="")),
    "class that is no model": arguments(reference("asynctasq.worker.worker.Worker")),
    "class built in": arguments(reference("builtins.int")),
    "class that is abstract": arguments(reference("collections.abc.Sequence")),
    "function": arguments(reference("os.system")),
    "module": arguments(reference("os.path")),
    "path through an attribute": arguments(reference("toy_orm.Toy.save.__globals__")),
    "path of nothing": arguments(reference("")),
    "path of dots": arguments(reference("....")),
    "path without module": arguments(reference("User")),
    "long path": arguments(reference(".".join(["a"] * 10_000))),
    "long name": arguments(reference("a" * 100_000)),
    "path with a null": arguments(reference("toy_orm\x00.User")),
    "no such class": arguments(reference("toy_orm.Nobody")),
    "relative path": arguments(reference(".toy_orm.User")),
}


@pytest.mark.parametrize("name", PAYLOADS)
async def test_a_poisonous_payload_is_a_dead_letter(put: Put, work: Work, name: str) -> None:
    letter = await dead_after(put, work, PAYLOADS[name])
    assert letter.error
    assert len(letter.error) < 20_100


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "no.such.task"},
        {"task": "os.system"},
        {"task": ""},
        {"task": "x" * 100_000},
        {"options": {"timeout": -1}},
        {"options": {"timeout": "1"}},
        {"options": {"timeout": [1]}},
        {"options": {"max_attempts": 0}},
        {"options": {"retry_delay": float("nan")}},
        {"options": {"retry_delay": 1e300}},
        {"options": {"retry_on": "ValueError"}},
        {"options": {"process": True}},
        {"options": {"result_ttl": 1}},
        {"options": {"name": "x"}},
        {"options": {"nonsense": "x" * 100_000}},
        {"id": "another"},
    ],
    ids=lambda c: repr(c)[:50],
)
async def test_a_poisonous_header_is_a_dead_letter(
    put: Put, work: Work, changes: dict[str, Any]
) -> None:
    message_id = uuid4().hex
    values = {"id": message_id, **changes}
    await put(message(arguments(), values.pop("id"), **values), message_id)
    await innocent().dispatch()
    await work()
    assert ran == ["innocent"]
    letter = await deadletters.show(message_id)
    assert letter is not None
    assert letter.reason == "the message cannot be run"
    assert len(letter.error) <= 20_100


@pytest.mark.parametrize(
    "body",
    [b"", b"\xc1", b"garbage", b"\x91" * 100_000, os.urandom(1000), b"\x00" * 2_000_000],
    ids=["empty", "marker", "text", "deep", "random", "large"],
)
async def test_bytes_that_are_no_message_are_dead_letters(
    put: Put, work: Work, body: bytes
) -> None:
    message_id = await put(body)
    await innocent().dispatch()
    await work()
    assert ran == ["innocent"]
    letter = await deadletters.show(message_id)
    assert letter is not None
    assert (letter.task, letter.payload_bytes) == ("", len(body))


# --- what a payload must not reach ------------------------------------------------------


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package on `sys.path` whose import, or any of its code, leaves a file behind."""
    trace = tmp_path / "trace"
    leave = f"import pathlib; pathlib.Path({str(trace)!r}).write_text(__name__)\n"
    for name in ("canary", "canary_app"):
        package = tmp_path / name
        package.mkdir()
        (package / "__init__.py").write_text(leave if name == "canary" else "")
        (package / "__main__.py").write_text(leave)
        (package / "models.py").write_text(leave + "class User: ...\n")
        (package / "exits.py").write_text(leave + "raise SystemExit(3)\n")
        (package / "fails.py").write_text(leave + "1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    monkeypatch.setattr(models, "_packages", set())
    yield trace
    for name in set(sys.modules) - before:
        if name.startswith("canary"):
            del sys.modules[name]


@pytest.mark.parametrize(
    "path", ["canary.models.User", "canary.User", "canary.__main__.X", "canary", "canary.models"]
)
async def test_modules_outside_the_application_are_not_imported(
    put: Put, work: Work, canary: Path, path: str
) -> None:
    await dead_after(put, work, arguments(reference(path)))
    assert not canary.exists()


@pytest.mark.parametrize("name", ["canary.models.User", "canary.User"])
async def test_type_names_and_tasks_import_nothing(
    put: Put, work: Work, canary: Path, name: str
) -> None:
    models.allow_packages(["canary"])
    await dead_after(put, work, arguments(ext(12, [name, {}])))
    ran.clear()
    await dead_after(put, work, arguments(), task=name)
    assert not canary.exists()


async def test_a_program_inside_the_application_is_not_run(
    put: Put, work: Work, canary: Path
) -> None:
    models.allow_packages(["canary_app.tasks"])
    await dead_after(put, work, arguments(reference("canary_app.__main__.User")))
    assert not canary.exists()


async def test_a_module_of_the_application_that_ends_the_program_ends_no_worker(
    put: Put, work: Work, canary: Path
) -> None:
    models.allow_packages(["canary_app.tasks"])
    message_id = uuid4().hex
    await put(message(arguments(reference("canary_app.exits.User")), message_id), message_id)
    await innocent().dispatch()
    await work()
    assert ran == ["innocent"]
    letter = await deadletters.show(message_id)
    assert letter is not None
    assert "InvalidReference" in letter.error


async def test_a_class_that_is_no_model_is_neither_made_nor_ended(
    put: Put, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces: list[str] = []

    class Loaded:
        def __new__(cls) -> Loaded:
            traces.append("__new__")
            return super().__new__(cls)

        def __init__(self) -> None:
            traces.append("__init__")

        def __del__(self) -> None:
            traces.append("__del__")

    class Slotted:
        __slots__ = ("x",)

        def __del__(self) -> None:
            traces.append("__del__")

    module = sys.modules["toy_orm"]
    for cls in (Loaded, Slotted):
        monkeypatch.setattr(module, cls.__name__, cls, raising=False)
        await dead_after(put, work, arguments(reference(f"toy_orm.{cls.__name__}")))
        ran.clear()
    assert traces == []


async def test_a_tag_of_another_tasks_annotation_is_refused(put: Put, work: Work) -> None:
    tagged = ext(12, [f"{__name__}.Item", {"name": "x"}])
    letter = await dead_after(put, work, arguments(tagged), task=innocent.name)
    assert "Item" in letter.error


async def test_errors_of_damaged_payloads_show_no_arguments(
    put: Put, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "hunter2"
    for payload in (
        arguments(msgpack.ExtType(2, secret.encode())),
        arguments(ext(12, [f"{__name__}.Color", secret])),
        arguments(ext(10, [[secret]])),
        arguments(secret, secret, secret),
    ):
        letter = await dead_after(put, work, payload)
        ran.clear()
        assert secret not in letter.error + letter.traceback
    assert secret not in "".join(repr(vars(r)) for r in caplog.records)


# --- fuzzing ----------------------------------------------------------------------------


def mutated(chance: random.Random, body: bytes) -> bytes:
    """The body with some bytes changed, removed, doubled or replaced by hostile ones."""
    damaged = bytearray(body)
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(damaged) + 1)
        kind = chance.randrange(6)
        if kind == 0:
            damaged[place : place + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            del damaged[place : place + chance.randint(1, 8)]
        elif kind == 2:
            damaged[place:place] = damaged[place : place + chance.randint(1, 32)]
        elif kind == 3:
            damaged[place:place] = chance.choice(HOSTILE)
        elif kind == 4:
            damaged[place:] = b""
        else:
            damaged[place:place] = os.urandom(chance.randint(1, 16))
        if not damaged:
            return b""
    return bytes(damaged)


HOSTILE = [
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\x00\xff\xff\xff",
    b"\xc9\x00\x00\x00\xff\x0c",
    b"\xd4\x01\xc0",
    b"\xc7\x02\x09\x91\xc0",
    b"\x91" * 200,
    msgpack.packb(reference("canary.models.User")),
    msgpack.packb(ext(12, ["canary.User", {}])),
    b"\xcf" + b"\xff" * 8,
    b"\xcb\x7f\xf8" + b"\x00" * 6,
]


def originals() -> list[bytes]:
    """Real messages whose mutants are worth trying."""
    rich = [
        ((1, "text", b"raw"), {1: [None, 2.5]}, {3, 4}, [2**70, frozenset()]),
        ({"nested": [{"deep": [(1,)]}]},),
    ]
    payloads = [arguments(*values[:1]) for values in rich]
    payloads.append(arguments(reference(), user=reference(pk=[1, "a"])))
    payloads.append(arguments(item=ext(12, [f"{__name__}.Item", {"name": "x"}])))
    payloads.append(arguments(ext(9, [ext(10, [1]), msgpack.ExtType(2, b"2026-01-01T00:00:00")])))
    return [message(p, "fuzzed", options={"timeout": 5}) for p in payloads]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
async def test_mutated_messages_never_harm_the_worker(
    toy: Toy, configure: Callable[..., App], work: Work, canary: Path, signed: bool
) -> None:
    app = configure(**({"signing_key": KEY} if signed else {}))
    toy.save(User(1, "Ann"))
    toy.save(Order(1, "shoes"))
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    bodies = originals()
    before = set(sys.modules)
    done = 0
    while done < FUZZ:
        count = min(2000, FUZZ - done)
        batch = [
            Outgoing("default", f"fuzzed-{i}", _body(chance, bodies, i, signed))
            for i in range(done, done + count)
        ]
        await app.open_broker().put(batch)
        sent = await innocent().dispatch()
        await work(concurrency=200)
        assert await app.open_broker().state(sent.queue, sent.id) is None, f"seed {seed}"
        assert "innocent" in ran, f"seed {seed}"
        ran.clear()
        await deadletters.purge()
        done += count
    assert not canary.exists(), f"seed {seed}"
    assert [m for m in set(sys.modules) - before if m.startswith("canary")] == []


def _body(chance: random.Random, bodies: list[bytes], i: int, signed: bool) -> bytes:
    """A mutant that still bears the id under which it is put, so that most get further."""
    body = mutated(chance, chance.choice(bodies))
    body = body.replace(b"\xa6fuzzed", msgpack.packb(f"fuzzed-{i}"))
    if not signed:
        return body
    kind = chance.randrange(3)
    if kind == 0:
        return body
    signed_body = sign(body, [KEY], MESSAGE)
    return signed_body if kind == 1 else mutated(chance, signed_body)


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=50))
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_bytes_as_a_payload_run_the_task_or_are_dead_letters(
    toy: Toy, work: Work, payloads: list[bytes]
) -> None:
    import asynctasq.app

    async def run() -> None:
        broker = asynctasq.app.current().open_broker()
        bodies = {f"id-{i}": message(p, f"id-{i}") for i, p in enumerate(payloads)}
        await broker.put([Outgoing("default", i, body) for i, body in bodies.items()])
        await work(concurrency=100)
        for i in bodies:
            assert await broker.state("default", i) in (None, "dead")
        await deadletters.purge()

    asyncio.run(run())

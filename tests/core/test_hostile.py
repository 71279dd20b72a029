"""Bytes from somebody who can write to the broker and knows how a worker is made.

`test_poison` has what is damaged; here is what is well made and means harm.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sqlite3
import sys
import types
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from time import thread_time
from typing import Any
from uuid import UUID

import msgpack
import process_jobs
import pytest
from asynctasq import InvalidReference, Ref, deadletters, task
from asynctasq.adapters.plugins import Adapters
from asynctasq.app import App
from asynctasq.brokers import DeadLetter, Outgoing
from asynctasq.brokers.memory import broker as memory
from asynctasq.cli import cli
from asynctasq.cli.application import moment
from asynctasq.cli.log_lines import printable
from asynctasq.deadletters import _readable
from asynctasq.errors import InvalidMessage
from asynctasq.wire import class_paths as models
from asynctasq.wire.class_paths import find_class
from asynctasq.wire.decoding import collect_references, decode_arguments
from asynctasq.wire.encoding import encode_arguments
from asynctasq.wire.message import Message
from asynctasq.wire.results import _loaded_error_class
from click.testing import CliRunner
from toy_orm import Toy

Work = Callable[..., Awaitable[None]]

KEY = b"a key of more than 16 bytes"

#: Clears the screen, sets the title, and C1's form of the same introducer; turns text round.
ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b2J\u202e"

most_at_once = 0
running = 0


@task
async def counted() -> None:
    global most_at_once, running
    running += 1
    most_at_once = max(most_at_once, running)
    await asyncio.sleep(0.01)
    running -= 1


def reference(pk: Any) -> msgpack.ExtType:
    body = {"__orm:toy__": pk, "__orm_class__": "toy_orm.User"}
    return msgpack.ExtType(1, msgpack.packb(body))


# --- memory and time --------------------------------------------------------------------


def tower_of_claims(levels: int) -> bytes:
    """Extension types in arrays in extension types, each array claiming a megabyte's items."""
    body = b"\xc0"
    for _ in range(levels):
        extension = b"\xc9" + len(body).to_bytes(4, "big") + b"\x09" + body
        body = b"\xdd\x00\x0c\x00\x00" * 900 + extension + b"\xc0" * 20_000
    return (b"\x92" + body).ljust(1_000_000, b"\xc0")


def test_arrays_that_claim_more_than_follows_take_no_memory() -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for payload in (tower_of_claims(31), b"\x92" + b"\xdd\x00\x0f\x00\x00" * 1000 + b"\xc0" * 9**6):
        with pytest.raises(InvalidMessage):
            decode_arguments(payload, {})
        with pytest.raises(InvalidMessage):
            collect_references(payload)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert used < 64 * 1024  # KiB


def test_long_arrays_that_are_what_they_say_are_decoded() -> None:
    payload = msgpack.packb([[list(range(100_000)), [[1] * 20] * 1000], {}])
    args, _ = decode_arguments(payload, {})
    assert args == [list(range(100_000)), [[1] * 20] * 1000]


@pytest.mark.parametrize(
    "key",
    [
        msgpack.ExtType(6, b"1E+999999999"),
        msgpack.ExtType(6, b"-1E+999999999"),
        msgpack.ExtType(6, b"9" * 100_000),
        msgpack.ExtType(6, b"1E+2000"),
        msgpack.ExtType(8, b"0x" + b"f" * 100_000),
        [1, msgpack.ExtType(6, b"1E+999999999")],
    ],
    ids=["exponent", "negative", "digits", "moderate", "hexadecimal", "part"],
)
def test_a_key_that_takes_minutes_to_convert_is_refused(key: Any) -> None:
    with pytest.raises(InvalidReference, match="1000 digits"):
        collect_references(msgpack.packb([[reference(key)], {}]))


@pytest.mark.parametrize(
    "key", [b"1.5", b"-1E+1000", b"1E-999999999", b"NaN", b"sNaN", b"Infinity"]
)
def test_other_decimal_keys_are_left_to_the_adapter(key: bytes) -> None:
    [(_, [ref])] = collect_references(msgpack.packb([[reference(msgpack.ExtType(6, key))], {}]))
    assert str(ref.pk) == key.decode()


@pytest.mark.parametrize("name", [0, -1, None, 1.5, b"value", [1]])
def test_an_argument_whose_name_is_no_text_is_refused(name: Any) -> None:
    payload = b"\x92\x90\x81" + msgpack.packb(name) + msgpack.packb(reference(1))
    with pytest.raises(InvalidMessage):
        collect_references(payload)


async def test_copies_of_one_message_do_not_run_beside_each_other(
    app: App, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis has an entry for each copy; the memory broker is made to hand them out likewise."""
    global most_at_once
    most_at_once = 0
    take = memory.MemoryConsumer.take

    async def take_all_twice(self: Any, limit: int, timeout_seconds: float) -> list[Any]:
        return 5 * await take(self, limit, timeout_seconds)

    monkeypatch.setattr(memory.MemoryConsumer, "take", take_all_twice)
    await counted().dispatch()
    await work()
    assert most_at_once == 1


#: Python's hash of a number is its remainder by this.
MODULUS = 2**61 - 1

COLLIDING: dict[str, Callable[[int], Any]] = {
    "integers": lambda i: msgpack.ExtType(8, hex(i * MODULUS).encode()),
    "UUIDs": lambda i: msgpack.ExtType(7, str(UUID(int=i * MODULUS)).encode()),
    "decimals": lambda i: msgpack.ExtType(6, str(i * MODULUS).encode()),
    "tuples": lambda i: msgpack.ExtType(9, msgpack.packb([COLLIDING["integers"](i), 1])),
}


def as_set(members: list[Any]) -> msgpack.ExtType:
    return msgpack.ExtType(10, msgpack.packb(members))


def as_map(keys: list[Any]) -> bytes:
    """A map of these keys, which msgpack packs from no dict."""
    head = b"\xdf" + len(keys).to_bytes(4, "big")
    return head + b"".join(msgpack.packb(key) + b"\xc0" for key in keys)


def as_sets(members: list[Any]) -> list[msgpack.ExtType]:
    return [as_set(members[n : n + 2000]) for n in range(0, len(members), 2000)]


SHAPES: dict[str, Callable[[list[Any]], bytes]] = {
    "a set": lambda values: msgpack.packb([[as_set(values)], {}]),
    "sets": lambda values: msgpack.packb([as_sets(values), {}]),
    "a dict": lambda values: b"\x92\x91" + as_map(values) + b"\x80",
    "a dict in a tuple": lambda values: msgpack.packb(
        [[msgpack.ExtType(9, b"\x91" + as_map(values))], {}]
    ),
}


@pytest.mark.parametrize("kind", COLLIDING)
@pytest.mark.parametrize("shape", SHAPES)
def test_keys_that_were_chosen_to_collide_are_refused_soon(kind: str, shape: str) -> None:
    payload = SHAPES[shape]([COLLIDING[kind](i) for i in range(20_000)])
    assert len(payload) < 1024 * 1024
    since = thread_time()
    collect_references(payload)
    with pytest.raises(InvalidMessage, match="chosen to collide"):
        decode_arguments(payload, {})
    assert thread_time() - since < 2


def test_small_collections_that_collide_are_decoded_soon_though_there_are_many() -> None:
    sets = [as_set([COLLIDING["UUIDs"](i) for i in range(16)])] * 1400
    payload = msgpack.packb([sets, {}])
    since = thread_time()
    args, _ = decode_arguments(payload, {})
    assert thread_time() - since < 2
    assert len(args) == 1400


def test_a_reference_with_many_keys_is_not_built() -> None:
    keys = [COLLIDING["integers"](i) for i in range(20_000)]
    payload = msgpack.packb([[msgpack.ExtType(1, as_map(keys))], {}])
    since = thread_time()
    with pytest.raises(InvalidMessage):
        collect_references(payload)
    assert thread_time() - since < 2


def test_large_collections_that_are_only_large_are_decoded() -> None:
    values: list[Any] = [
        set(range(100_000)),
        {n << 22: str(n) for n in range(40_000)},
        {UUID(int=n) for n in range(10_000)},
        {(n, -n): frozenset([n]) for n in range(20_000)},
    ]
    for value in values:
        payload = encode_arguments([value], {}, (), lambda _: None, {}).payload
        assert decode_arguments(payload, {}) == ([value], {})


# --- classes ----------------------------------------------------------------------------


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module that is loaded, and outside of the application's packages."""
    module = types.ModuleType("loaded_one")
    monkeypatch.setitem(sys.modules, "loaded_one", module)
    monkeypatch.setattr(models, "_packages", set())
    return module


def test_a_path_wakes_no_lazy_object(loaded: Any) -> None:
    woken: list[str] = []

    class Lazy:
        @property  # type: ignore[misc]
        def __class__(self) -> type:  # as Django's and werkzeug's lazy objects have it
            woken.append("__class__")
            return type

        def __getattr__(self, name: str) -> Any:
            woken.append(name)
            raise AttributeError(name)

    loaded.settings = Lazy()
    for path in ("loaded_one.settings", "loaded_one.settings.User"):
        with pytest.raises(InvalidReference):
            find_class(path)
        assert _loaded_error_class(path.replace(".", ":", 1)) is None
    assert woken == []


def test_a_path_runs_no_metaclass(loaded: Any) -> None:
    woken: list[str] = []

    class Meta(type):
        def __getattribute__(cls, name: str) -> Any:
            woken.append(name)
            return super().__getattribute__(name)

    class Watched(metaclass=Meta):
        class Inner:
            pass

    loaded.Watched = Watched
    woken.clear()
    assert find_class("loaded_one.Watched.Inner").__name__ == "Inner"
    assert woken == []


def test_no_code_of_a_metaclass_says_whether_its_class_is_a_model(loaded: Any) -> None:
    woken: list[str] = []

    class Meta(type):
        def __getattribute__(cls, name: str) -> Any:
            woken.append(name)
            return super().__getattribute__(name)

        def __hash__(cls) -> int:
            woken.append("__hash__")
            return super().__hash__()

        def __eq__(cls, other: object) -> bool:
            woken.append("__eq__")
            return True

        def __bool__(cls) -> bool:
            woken.append("__bool__")
            return False

        def __subclasscheck__(cls, other: object) -> bool:
            woken.append("__subclasscheck__")
            return True

    class Watched(metaclass=Meta):
        def __del__(self) -> None:
            woken.append("__del__")

    loaded.Watched = Watched
    woken.clear()
    adapters = Adapters({"toy": Toy()})
    for _ in range(2):
        with pytest.raises(InvalidReference, match="is not a model of 'toy'"):
            adapters.owner_of_reference(Ref("loaded_one.Watched", 1, orm="toy"))
    assert woken == []


@pytest.fixture
def lazy_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module that importlib's own lazy loader loads at the first attribute."""
    trace = tmp_path / "trace"
    source = tmp_path / "sleeping.py"
    source.write_text(f"open({str(trace)!r}, 'w').close()\nclass User: ...\n")
    spec = importlib.util.spec_from_file_location("sleeping", source)
    assert spec is not None
    assert spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "sleeping", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(models, "_packages", set())
    yield trace
    models._found.pop("sleeping.User", None)


def test_a_path_loads_no_module_that_sleeps(lazy_module: Path) -> None:
    with pytest.raises(InvalidReference):
        find_class("sleeping.User")
    assert _loaded_error_class("sleeping:User") is None
    assert not lazy_module.exists()


def test_a_sleeping_module_of_the_application_is_loaded(lazy_module: Path) -> None:
    models.allow_packages(["sleeping"])
    assert find_class("sleeping.User").__name__ == "User"
    assert lazy_module.exists()


# --- what people look at ----------------------------------------------------------------


def test_what_a_terminal_obeys_is_escaped() -> None:
    assert printable(ESCAPES).isprintable()
    assert printable("\x1b[2J\n\tend", lines=True) == "\\x1b[2J\n\tend"
    assert printable("Zoë 東京 ✓") == "Zoë 東京 ✓"


class Killed(Exception):
    pass


@task(max_attempts=1)
async def fail_with_escapes() -> None:
    raise Killed(ESCAPES)


async def test_dead_letters_do_not_steer_the_terminal(
    configure: Callable[..., App], work: Work, tmp_path: Path
) -> None:
    path = tmp_path / "queue.db"
    app = configure(driver="sqlite", sqlite=path)
    handle = await fail_with_escapes().dispatch()
    evil = f"id{ESCAPES}"
    message = Message(evil, ESCAPES, b"", 0.0)
    await app.open_broker().put([Outgoing("default", evil, message.encode())])
    await work()
    await app.open_broker().close()
    for command in (["dead", "list"], ["dead", "show", evil], ["dead", "show", handle.id]):
        result = await asyncio.to_thread(CliRunner().invoke, cli, command)
        assert result.exit_code == 0, result.output
        assert not set(ESCAPES) & set(result.output) - set(printable(ESCAPES))
        assert "\\x1b[2J" in result.output


@pytest.mark.parametrize(
    "info",
    [
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 1000 + b"\xc0",
        msgpack.packb([1]),
        msgpack.packb({"attempts": "many", "deliveries": float("inf"), "task": 1, "error": None}),
        msgpack.packb({"attempts": [[]], "reason": {"a": 1}}),
        msgpack.packb({1: 2}),
    ],
)
def test_any_bytes_about_a_dead_letter_can_be_shown(info: bytes) -> None:
    letter = _readable(DeadLetter("q", "id", b"", info, float("inf")))
    assert (letter.attempts, letter.deliveries, letter.error) == (0, 0, "")
    assert [moment(t) for t in (float("nan"), float("inf"), 1e300, -1e300)] == ["?"] * 4


async def test_values_of_any_type_in_a_queue_file_are_dead_letters(
    configure: Callable[..., App], work: Work, tmp_path: Path
) -> None:
    path = tmp_path / "queue.db"
    broker = configure(driver="sqlite", sqlite=path).open_broker()
    handles = [await counted().dispatch() for _ in range(5)]
    with closing(sqlite3.connect(path)) as db, db:
        values = {"body": "text", "id": b"\xff", "deliveries": "many", "info": "text"}
        for handle, (column, value) in zip(handles, values.items(), strict=False):
            db.execute(f"UPDATE message SET {column} = ? WHERE id = ?", (value, handle.id))
        row = ("w", b"h", "pid", "[1", "many", "x", "no", 9e15)
        db.execute("INSERT INTO worker VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    assert await broker.workers() == []
    await work()
    assert len(await deadletters.list_dead()) == 3
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE message SET body = 1, info = 'text', at = 1e300 WHERE state = 3")
    assert len(await deadletters.list_dead()) == 3
    await broker.close()


async def test_a_child_process_outlives_what_it_cannot_read(app: App, work: Work) -> None:
    broker = app.open_broker()
    unhashable = reference(msgpack.ExtType(6, b"sNaN"))
    payload = msgpack.packb([[unhashable], {}])
    message = Message("hostile", process_jobs.item_of.name, payload, 0.0)
    await broker.put([Outgoing("default", "hostile", message.encode())])
    await work(modules=["process_jobs"], concurrency=1)
    (letter,) = await deadletters.list_dead()
    assert (letter.attempts, letter.reason) == (1, "the message cannot be run")

"""Values come back exactly as they went; what cannot travel is refused by its place and type."""

from __future__ import annotations

import datetime as dt
import math
import threading
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import msgpack
import pytest
from asynctasq import InvalidMessage, SerializationError, register_type
from asynctasq.wire import encoding as serializer
from asynctasq.wire.decoding import decode_arguments, decode_value
from asynctasq.wire.encoding import MAX_EXTENSION_DEPTH, encode_arguments, encode_value
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st


def nobody(_: object) -> None:
    """The owner of every value: none."""


def encode(value: object, path: str = "x") -> bytes:
    return encode_value(value, path, nobody, {})


def round_trip(value: object) -> Any:
    return decode_value(encode(value), {})


def shape(value: Any) -> object:
    """Type and value, comparable also for NaN, for sets and for what `==` passes over."""
    kind = type(value).__name__
    if isinstance(value, dict):
        return kind, [(shape(k), shape(v)) for k, v in value.items()]
    if isinstance(value, set | frozenset):
        return kind, sorted(repr(shape(item)) for item in value)
    if isinstance(value, list | tuple):
        return kind, [shape(item) for item in value]
    if isinstance(value, dt.datetime | dt.time):
        return kind, value.isoformat(), value.fold, repr(value.tzinfo)
    return kind, repr(value)


# Before Python 3.14 `fromisoformat` takes an offset of less than a second for UTC.
offsets = st.builds(
    dt.timezone,
    st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23)).filter(
        lambda offset: abs(offset) >= dt.timedelta(seconds=1)
    ),
)
zones = st.none() | st.just(dt.UTC) | offsets | st.timezones()
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.integers(2**4000, 2**4100)
    | st.floats()
    | st.text(max_size=10)
    | st.binary(max_size=10)
    | st.uuids()
    | st.decimals(allow_nan=False)
    | st.dates()
    | st.times(timezones=zones)
    | st.datetimes(timezones=zones)
    | st.timedeltas()
)
hashable = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
values = st.recursive(
    hashable | st.decimals() | st.just(Decimal("sNaN")) | st.just(Decimal("-NaN123")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.sets(hashable, max_size=4)
        | st.dictionaries(hashable, inner, max_size=4)
    ),
    max_leaves=12,
)


@given(values)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example({None: 1, 1: 2, 1.5: 3, (1, (2,)): {frozenset([1]): []}})
@example([math.inf, -math.inf, math.nan, -0.0])
@example([(), [], {}, set(), frozenset(), b"", "", (((),),)])
@example([2**63, 2**64, -(2**63) - 1, 2**64 - 1])
def test_any_nesting_of_the_listed_types_returns_exactly_as_it_went(value: object) -> None:
    assert shape(round_trip(value)) == shape(value)


@given(st.lists(values, max_size=3), st.dictionaries(st.text(max_size=5), values, max_size=3))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_arguments_return_exactly_as_they_went(args: list[Any], kwargs: dict[str, Any]) -> None:
    encoded = encode_arguments(args, kwargs, ("a",), nobody, {})
    got_args, got_kwargs = decode_arguments(encoded.payload, {})
    assert shape(got_args) == shape(args)
    assert shape(got_kwargs) == shape(kwargs)


def test_integers_of_any_size_travel() -> None:
    for value in (2**100_000, -(2**1_000_000) + 1):
        assert round_trip(value) == value


def moments() -> Iterator[dt.datetime]:
    berlin = ZoneInfo("Europe/Berlin")
    yield dt.datetime(2026, 10, 25, 2, 30, tzinfo=berlin)
    yield dt.datetime(2026, 10, 25, 2, 30, tzinfo=berlin, fold=1)
    yield dt.datetime(2026, 3, 29, 2, 30, tzinfo=berlin)
    yield dt.datetime(1890, 1, 1, 12, tzinfo=berlin)
    yield dt.datetime(2026, 1, 1, fold=1)
    yield dt.datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=dt.timezone(dt.timedelta(seconds=-1)))
    yield dt.datetime.min
    yield dt.datetime.max.replace(tzinfo=dt.UTC)


@pytest.mark.parametrize("moment", list(moments()), ids=str)
def test_moments_keep_their_zone_offset_and_fold(moment: dt.datetime) -> None:
    got = round_trip(moment)
    assert shape(got) == shape(moment)
    assert got.utcoffset() == moment.utcoffset()
    if isinstance(moment.tzinfo, ZoneInfo):
        assert got.tzinfo is moment.tzinfo


def test_a_zone_of_another_library_keeps_its_offset() -> None:
    class Zone(dt.tzinfo):
        def utcoffset(self, moment: dt.datetime | None) -> dt.timedelta:
            return dt.timedelta(hours=5, minutes=30)

        def dst(self, moment: dt.datetime | None) -> None: ...

        def tzname(self, moment: dt.datetime | None) -> str:
            return "IST"

    moment = dt.datetime(2026, 1, 1, tzinfo=Zone())
    got = round_trip(moment)
    assert got == moment
    assert got.utcoffset() == dt.timedelta(hours=5, minutes=30)


@pytest.mark.parametrize(
    "value",
    [
        {"__orm:sqlalchemy__": 1, "__orm_class__": "app.models.User"},
        {"__orm:toy__": [1, 2], "__orm_class__": "app.models.User", "__orm_db__": "x"},
        {"__tuple__": True, "items": [1]},
        {"code": 1, "data": b"\x81"},
        "__orm:toy__",
        b"__orm:toy__",
        ["ExtType", 1, b""],
        (1, msgpack.packb({"__orm:toy__": 1, "__orm_class__": "x.Y"})),
        msgpack.packb(msgpack.ExtType(1, b"\x00")),
        "!2026-01-01[Europe/Berlin]",
    ],
    ids=repr,
)
def test_nothing_of_a_users_is_mistaken_for_a_marker(value: object) -> None:
    encoded = encode_arguments([value], {"k": [value]}, (), nobody, {})
    assert encoded.models == []
    args, kwargs = decode_arguments(encoded.payload, {})
    assert shape([args, kwargs]) == shape([[value], {"k": [value]}])


class Opaque:
    """What nothing can encode."""


def error_of(value: object, path: str = "order") -> SerializationError:
    with pytest.raises(SerializationError) as caught:
        encode(value, path)
    return caught.value


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (Opaque(), "order"),
        ([1, 2, Opaque()], "order[2]"),
        ({"items": [0, {"price": Opaque()}]}, "order['items'][1]['price']"),
        ({"a": ({1: {Opaque()}},)}, "order['a'][0][1]{...}"),
        ({("k", Opaque()): 1}, "order, key ('k', <"),
        ([defaultdict(int, a=1)], "order[0]"),
    ],
    ids=["itself", "list", "dict", "set", "key", "subclass of dict"],
)
def test_an_error_names_the_path_and_the_type(value: object, path: str) -> None:
    error = error_of(value)
    assert error.path.startswith(path)
    assert type(error).__name__ in ("SerializationError",)
    assert ("Opaque" in str(error)) or ("defaultdict" in str(error))


def test_subclasses_are_refused_rather_than_changed_to_their_base() -> None:
    class Text(str):
        pass

    class Whole(int):
        pass

    class Moment(dt.datetime):
        pass

    for value in (Text("x"), Whole(1), Moment(2026, 1, 1)):
        assert type(value).__name__ in str(error_of([value]))


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (bytearray(b"x"), "builtins.bytearray cannot be put on the queue; pass bytes(...)"),
        (memoryview(b"x"), "builtins.memoryview cannot be put on the queue; pass bytes(...)"),
        (msgpack.ExtType(1, b"\x81"), "msgpack.ext.ExtType cannot be put on the queue; use a type"),
        (msgpack.Timestamp(1), "msgpack.ext.Timestamp cannot be put on the queue; pass a datetime"),
    ],
    ids=["bytearray", "memoryview", "ExtType", "Timestamp"],
)
def test_what_msgpack_would_bring_back_as_something_else_is_refused(
    value: Any, advice: str
) -> None:
    error = error_of({"a": [b"fine", "fine", (1, value)]})
    assert error.path == "order['a'][2][1]"
    assert advice in str(error)
    for size in (0, 1, 255, 2**16):
        assert "bytes(...)" in str(error_of([bytearray(size)]))
        assert "register_type" in str(error_of([msgpack.ExtType(5, bytes(size))]))


@pytest.mark.parametrize(
    "value",
    [
        OrderedDict([("b", 1), ("a", 2)]),
        Counter("abracadabra"),
        deque([1, 2], maxlen=2),
        deque(["a"]),
    ],
)
def test_what_python_has_beside_dict_and_list_travels(value: Any) -> None:
    got = round_trip({"a": [value]})["a"][0]
    assert (got, repr(got)) == (value, repr(value))


def test_an_order_that_was_changed_is_kept() -> None:
    value = OrderedDict(a=1, b=2)
    value.move_to_end("a")
    assert list(round_trip(value)) == ["b", "a"]


@pytest.mark.parametrize("name", ["OrderedDict", "Counter"])
def test_an_ordered_dict_is_made_of_a_map_only(name: str) -> None:
    with pytest.raises(InvalidMessage):
        decode_value(msgpack.packb(msgpack.ExtType(12, msgpack.packb([name, [[1, 2]]]))), {})


class Marked(str):
    """As Django's `SafeString`: its `str` is itself."""

    def __str__(self) -> str:
        return self


@pytest.mark.usefixtures("money")
def test_an_encode_that_gives_the_value_itself_comes_to_an_end() -> None:
    register_type(Marked, "marked", str, Marked)
    got = round_trip([Marked("a")])[0]
    assert (type(got), got) == (Marked, "a")
    register_type(Opaque, "opaque", lambda value: value, lambda _: Opaque())
    error = error_of([Opaque()])
    assert error.path == "order[0]"
    assert "encode function" in str(error)


def test_lone_surrogates_are_refused_by_place() -> None:
    error = error_of({"name": "bad \udcff"})
    assert error.path == "order['name']"
    assert "surrogate" in str(error)


def test_a_value_that_contains_itself_is_refused() -> None:
    endless: list[Any] = [1]
    endless.append({"again": endless})
    assert "contains itself" in str(error_of(endless))
    inside: list[Any] = []
    inside.append((inside,))
    assert "contains itself" in str(error_of(inside))


def nested(kind: type, depth: int) -> Any:
    value: Any = kind()
    for _ in range(depth):
        value = kind([value])
    return value


def depth_of(value: Any) -> int:
    depth = 0
    while value:
        (value,) = value
        depth += 1
    return depth


def test_lists_may_nest_hundreds_deep() -> None:
    assert depth_of(round_trip(nested(list, 400))) == 400


@pytest.mark.parametrize("kind", [tuple, frozenset])
def test_what_can_be_sent_can_be_received_up_to_the_depth_limit(kind: type) -> None:
    deepest = nested(kind, MAX_EXTENSION_DEPTH - 1)
    assert depth_of(round_trip(deepest)) == MAX_EXTENSION_DEPTH - 1
    assert "too deep" in str(error_of(nested(kind, MAX_EXTENSION_DEPTH)))
    assert "too deep" in str(error_of(nested(list, 100_000)))


def test_the_deepest_value_decodes_in_a_thread_with_a_small_stack() -> None:
    body = encode(nested(tuple, MAX_EXTENSION_DEPTH - 1))
    got: list[object] = []
    before = threading.stack_size(2 * 1024 * 1024)
    try:
        thread = threading.Thread(target=lambda: got.append(decode_value(body, {})))
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert depth_of(got[0]) == MAX_EXTENSION_DEPTH - 1


def test_the_wire_forms_are_those_of_the_documentation() -> None:
    ext = msgpack.ExtType
    wire = {
        dt.datetime(2026, 1, 2, 3, tzinfo=ZoneInfo("Europe/Berlin")): (
            ext(2, b"2026-01-02T03:00:00+01:00[Europe/Berlin]")
        ),
        dt.date(2026, 1, 2): ext(3, b"2026-01-02"),
        dt.time(3, 4): ext(4, b"03:04:00"),
        dt.timedelta(days=-1, microseconds=5): ext(5, b"-1:0:5"),
        Decimal("1.50"): ext(6, b"1.50"),
        UUID(int=1): ext(7, b"00000000-0000-0000-0000-000000000001"),
        2**64: ext(8, b"0x10000000000000000"),
        (1, "a"): ext(9, msgpack.packb([1, "a"])),
        frozenset([1]): ext(11, msgpack.packb([1])),
        b"raw": b"raw",
    }
    for value, expected in [*wire.items(), ({1}, ext(10, msgpack.packb([1])))]:
        assert msgpack.unpackb(encode(value)) == expected


class Money:
    """An application's own type."""

    def __init__(self, cents: int, currency: str) -> None:
        self.cents, self.currency = cents, currency

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


@pytest.fixture
def money(monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, Any] = {}
    monkeypatch.setattr(serializer, "_registered", {})
    monkeypatch.setattr("asynctasq.wire.decoding.registered_names", names)
    monkeypatch.setattr(serializer, "registered_names", names)
    register_type(Money, "money", lambda m: (m.cents, m.currency), lambda v: Money(*v))


@pytest.mark.usefixtures("money")
def test_a_registered_type_travels_anywhere() -> None:
    value = {"prices": [Money(5, "EUR"), (Money(7, "USD"),)]}
    assert round_trip(value) == value


@pytest.mark.usefixtures("money")
def test_registration_is_for_the_exact_class() -> None:
    class More(Money):
        pass

    assert "More" in str(error_of(More(1, "EUR")))


@pytest.mark.usefixtures("money")
def test_a_tag_stands_for_one_class() -> None:
    with pytest.raises(ValueError, match="'money' already stands for"):
        register_type(Opaque, "money", vars, lambda _: Opaque())
    register_type(Money, "money", lambda m: [m.cents, m.currency], lambda v: Money(*v))


@pytest.mark.usefixtures("money")
def test_what_a_registered_encode_raises_or_returns_is_located() -> None:
    register_type(Opaque, "opaque", lambda _: object(), lambda _: Opaque())
    error = error_of({"a": [Opaque()]})
    assert error.path == "order['a'][0]"
    assert "builtins.object" in str(error)
    register_type(Opaque, "opaque", lambda _: 1 / 0, lambda _: Opaque())
    assert error_of([Opaque()]).path == "order[0]"


@pytest.mark.usefixtures("money")
def test_what_a_registered_decode_raises_is_a_damaged_message() -> None:
    damaged = encode([Money(5, "EUR")]).replace(b"EUR", b"E\xc0R")
    with pytest.raises(InvalidMessage):
        decode_value(damaged, {})
    register_type(Money, "money", lambda m: m.cents, lambda v: Money(*v))
    with pytest.raises(InvalidMessage, match="TypeError") as caught:
        decode_value(encode(Money(123456, "EUR")), {})
    assert "123456" not in str(caught.value)


def test_an_unregistered_tag_is_refused() -> None:
    body = msgpack.packb(msgpack.ExtType(12, msgpack.packb(["os.system", "ls"])))
    with pytest.raises(InvalidMessage, match=r"'os\.system' is not a type"):
        decode_value(body, {})


def test_errors_of_positional_and_keyword_arguments_name_the_parameter() -> None:
    for args, kwargs, path in (
        ([1, Opaque()], {}, "b"),
        ([1, 2, Opaque()], {}, "args[2]"),
        ([1], {"c": {"d": Opaque()}}, "c['d']"),
    ):
        with pytest.raises(SerializationError) as caught:
            encode_arguments(args, kwargs, ("a", "b"), nobody, {})
        assert caught.value.path == path


def test_a_huge_collection_with_one_bad_value_is_refused_quickly() -> None:
    value = {f"key-{i}": [i, str(uuid4())] for i in range(20_000)}
    value["bad"] = [1, Opaque()]
    assert error_of(value).path == "order['bad'][1]"


class Loud(str):
    """Adds only behaviour; `str()` of it gives itself, as that of Django's `SafeString`."""

    def __str__(self) -> str:
        return self


class Late:
    """Stands for a value until it is looked at."""

    def __init__(self, value: object) -> None:
        self.value = value


def plain_form(obj: object) -> Callable[[Any], object] | None:
    if isinstance(obj, Loud):
        return str.__str__
    return (lambda late: late.value) if isinstance(obj, Late) else None


def plain(value: object) -> Any:
    return decode_value(encode_value(value, "x", nobody, {}, plain_form), {})


@pytest.mark.parametrize(
    "value", ["text", 2**70, -1, 1.5, b"b", None, True, [1, Loud("a")], {1: 2}]
)
def test_what_an_adapter_has_a_plain_form_for_travels_as_that(value: object) -> None:
    sent = [Late(value), {"in": (Late(value),)}]
    seen = plain(sent)
    assert seen == [value, {"in": (value,)}]
    assert type(seen[0]) is type(value)


def test_a_plain_form_may_have_one_itself_and_stand_as_a_key() -> None:
    seen = plain({Loud("key"): Late(Late(Loud("text")))})
    assert seen == {"key": "text"}
    assert {type(text) for item in seen.items() for text in item} == {str}


def test_a_plain_form_that_never_becomes_plain_ends_in_an_error() -> None:
    endless = Late(None)
    endless.value = endless
    with pytest.raises(SerializationError, match="x: nested too deep"):
        plain(endless)


@pytest.mark.parametrize(
    ("base", "value"),
    [(str, "x"), (bytes, b"x"), (int, 2**70), (float, 0.5), (list, [1]), (dict, {"a": 1})],
)
def test_a_registered_type_may_be_encoded_by_what_gives_the_value_back(
    base: type[Any], value: Any
) -> None:
    cls = type(f"Own{base.__name__}", (base,), {})
    register_type(cls, cls.__name__, lambda own: own, cls)
    assert type(round_trip(cls(value))) is cls
    assert round_trip(cls(value)) == value


def test_a_registered_type_that_cannot_be_encoded_as_itself_is_named() -> None:
    register_type(Late, "late", lambda late: late, Late)
    try:
        with pytest.raises(
            SerializationError, match=r"the encode function of .*Late gave back a Late"
        ):
            encode(Late(1))
    finally:
        del serializer._registered[Late]

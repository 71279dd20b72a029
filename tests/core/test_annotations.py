"""Dataclasses and enums travel where annotations name them, and only there."""

from __future__ import annotations

import dataclasses
import sys
from collections import ChainMap, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from datetime import datetime
from enum import Enum, Flag, IntEnum, StrEnum
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    TypedDict,
    TypeVar,
)
from uuid import UUID

import attrs
import msgpack
import msgspec
import pydantic
import pytest
from asynctasq import InvalidMessage, OnMissing, SerializationError, task
from asynctasq.app import App
from asynctasq.tasks.annotations import DeclaredLoading, annotations_of
from asynctasq.tasks.declaration import registry
from asynctasq.wire.decoding import decode_value
from typing_extensions import TypeAliasType

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]

T = TypeVar("T")


class Color(Enum):
    RED = 1
    MIXED = (1, 2)


class Level(IntEnum):
    LOW = 1


class Kind(StrEnum):
    BIG = "big"


class Right(Flag):
    READ = 1
    WRITE = 2


@dataclass
class Item:
    name: str
    color: Color = Color.RED


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    id: int
    items: list[Item] = field(default_factory=list)
    parent: Order | None = None
    total: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "total", len(self.items))


@dataclass
class Box(Generic[T]):
    content: T


@dataclass
class Doubling:
    value: int

    def __post_init__(self) -> None:
        self.value *= 2


@dataclass
class Special(Item):
    extra: int = 0


class Form(TypedDict):
    item: Item


Wrapped = NewType("Wrapped", Item)

Send = Callable[[Any, Any], Awaitable[Any]]


@pytest.fixture
def send(app: App, work: Callable[..., Awaitable[None]]) -> Send:
    """Dispatches a call of a task with one argument, runs it, gives what it returned."""

    async def send(sent: Any, value: Any) -> Any:
        handle = await sent(value).dispatch()
        await work()
        return await handle.result(timeout=5)

    return send


@task(result_ttl=60)
def plain(value: Item) -> Item:
    return value


@task(result_ttl=60)
def optional(value: Item | None) -> Item | None:
    return value


@task(result_ttl=60)
def deep(value: Mapping[str, Sequence[tuple[Order, ...]]]) -> dict[str, list[tuple[Order, ...]]]:
    return {k: list(v) for k, v in value.items()}


@task(result_ttl=60)
def annotated(value: Annotated[list[Annotated[Item, "meta"]], OnMissing("none")]) -> list[Item]:
    return value


@task(result_ttl=60)
def enums(value: list[Color | Level | Kind | Right]) -> list[Color | Level | Kind | Right]:
    return value


@task(result_ttl=60)
def boxed(value: Box[Item]) -> Box[Item]:
    return value


@task(result_ttl=60)
def literal(value: Literal[Color.RED, "none"]) -> Literal[Color.RED, "none"]:
    return value


@task(result_ttl=60)
def form(value: Form) -> Form:
    return value


@task(result_ttl=60)
def wrapped(value: Wrapped) -> Wrapped:
    return value


@task(result_ttl=60)
def doubled(value: Doubling) -> Doubling:
    return value


@task(result_ttl=60)
def beside_unknown(other: Unknown, value: Item) -> Item:
    return value


order = Order(id=1, items=[Item("a"), Item("b", Color.MIXED)], parent=Order(id=0))


@pytest.mark.parametrize(
    ("sent", "value"),
    [
        (plain, Item("x", Color.MIXED)),
        (optional, Item("x")),
        (optional, None),
        (deep, {"k": [(order, order)], "none": []}),
        (annotated, [Item("x")]),
        (enums, [Color.RED, Color.MIXED, Level.LOW, Kind.BIG, Right.READ | Right.WRITE]),
        (boxed, Box(Item("x"))),
        (literal, Color.RED),
        (form, {"item": Item("x")}),
        (wrapped, Item("x")),
        (doubled, Doubling(4)),
    ],
    ids=lambda v: getattr(v, "name", None),
)
async def test_what_an_annotation_names_travels_both_ways(
    send: Send, sent: Any, value: object
) -> None:
    got = await send(sent, value)
    assert got == value
    assert type(got) is type(value)
    if isinstance(got, list) and isinstance(value, list):
        assert [type(v) for v in got] == [type(v) for v in value]


async def test_fields_that_are_not_in_the_constructor_come_back(send: Send) -> None:
    @task(result_ttl=60)
    def total(value: Order) -> int:
        return value.total

    changed = dataclasses.replace(order)
    object.__setattr__(changed, "total", 99)
    assert await send(total, changed) == 99


async def test_classes_local_to_a_function_travel(send: Send) -> None:
    @dataclass
    class Inner:
        n: int

    @dataclass
    class Outer:
        inner: list[Inner]

    @task(result_ttl=60)
    def local(value: Outer) -> Outer:
        return value

    assert await send(local, Outer([Inner(1)])) == Outer([Inner(1)])


async def test_a_name_for_type_checkers_only_hides_no_other_annotation(
    app: App, work: Callable[..., Awaitable[None]]
) -> None:
    handle = await beside_unknown(None, Item("x")).dispatch()
    await work()
    assert await handle.result(5) == Item("x")


@dataclass
class Needy:
    n: int
    seed: InitVar[int]


async def test_a_dataclass_that_cannot_be_made_again_is_refused_at_dispatch(app: App) -> None:
    @task
    def needy(value: Needy) -> None: ...

    with pytest.raises(SerializationError, match=r"value: .*Needy.*'seed'.*register_type"):
        await needy(Needy(1, 2)).dispatch()


@task
def untyped(value: Any) -> None: ...


@pytest.mark.parametrize("value", [Item("x"), Color.RED, Level.LOW, Kind.BIG, Special("x")])
async def test_what_no_annotation_names_is_refused_with_advice(app: App, value: object) -> None:
    with pytest.raises(SerializationError, match=r"^value\['a'\]\[0\]: .*annotate the parameter"):
        await untyped({"a": [value]}).dispatch()


async def test_a_subclass_is_not_what_the_annotation_names(app: App) -> None:
    with pytest.raises(SerializationError, match="Special"):
        await plain(Special("x")).dispatch()


async def test_the_path_leads_through_the_fields_of_dataclasses(app: App) -> None:
    bad = Order(id=1, items=[Item("a"), Item(object())])  # type: ignore[arg-type]
    with pytest.raises(SerializationError) as caught:
        await deep({"k": [(bad,)]}).dispatch()
    assert caught.value.path == "value['k'][0][0].items[1].name"


def test_metadata_goes_to_the_adapter_and_rules_to_core() -> None:
    def function(
        user: Annotated[Item | None, "load", OnMissing("skip")], rest: list[Annotated[Item, 1]]
    ) -> Annotated[int, "x"]:
        return 1

    parameters, result = annotations_of(function)
    assert parameters.declared == {"user": DeclaredLoading(("load",), "skip", (Item,))}
    assert parameters.parts == {"rest": [DeclaredLoading((1,), None, (Item,))]}
    assert result.declared == {"": DeclaredLoading(("x",), None, (int,))}


def test_on_missing_takes_one_of_three() -> None:
    with pytest.raises(ValueError, match="explode"):
        OnMissing("explode")  # type: ignore[arg-type]


# --- classes with fields of other libraries --------------------------------------------


class Size(Enum):
    SMALL = 1


class Point(NamedTuple):
    x: int
    size: Size = Size.SMALL


class Part(pydantic.BaseModel):
    name: str
    size: Size = Size.SMALL


class Machine(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow", frozen=True)

    parts: list[Part]
    made: datetime = datetime(2026, 1, 1)
    number: int = pydantic.Field(alias="no")
    _secret: str = pydantic.PrivateAttr(default="none")


class Wrapper(pydantic.BaseModel, Generic[T]):
    content: T


class Numbers(pydantic.RootModel[list[int]]):
    pass


@attrs.define
class Car:
    name: str
    sizes: list[Size] = attrs.field(factory=list)
    _private: int = 1
    seen: int = attrs.field(init=False, default=0)


@attrs.frozen
class FrozenCar:
    car: Car


class Struct(msgspec.Struct, frozen=True, tag=True, rename="camel"):
    my_name: str
    points: tuple[Point, ...] = ()

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "my_name", self.my_name + "!")


class Slug(str):
    def shout(self) -> str:
        return self.upper()


class Basket(list[int]):
    def append(self, item: int) -> None:
        super().append(item + 1)


class Count(int):
    pass


class Table(dict[str, int]):
    pass


class Noted(list[int]):
    """One that holds more than a list does."""

    note = ""


class Slotted(str):
    __slots__ = ("note",)


def machine() -> Machine:
    machine = Machine(parts=[Part(name="a")], no=7, colour="red")  # type: ignore[call-arg]
    machine._secret = "told"
    return machine


def changed_car() -> Car:
    car = Car("a", [Size.SMALL], 2)
    car.seen = 9
    return car


@task(result_ttl=60)
def records(
    value: Point
    | Machine
    | Wrapper[Part]
    | Numbers
    | Car
    | FrozenCar
    | Struct
    | Slug
    | Basket
    | Count
    | Table
    | Noted
    | Slotted
    | UUID,
) -> (
    Point
    | Machine
    | Wrapper[Part]
    | Numbers
    | Car
    | FrozenCar
    | Struct
    | Slug
    | Basket
    | Count
    | Table
    | UUID
):
    return value  # type: ignore[return-value]


@pytest.mark.parametrize(
    "value",
    [
        Point(1, Size.SMALL),
        machine(),
        Wrapper[Part](content=Part(name="a")),
        Numbers([1, 2]),
        changed_car(),
        FrozenCar(changed_car()),
        Struct("a", (Point(1),)),
        Slug("a-b"),
        Basket([1, 2]),
        Count(3),
        Table(a=1),
    ],
    ids=lambda v: type(v).__name__,
)
async def test_classes_of_other_libraries_travel_where_an_annotation_names_them(
    send: Send, value: Any
) -> None:
    got = await send(records, value)
    assert got == value
    assert type(got) is type(value)
    assert repr(got) == repr(value)


async def test_a_pydantic_model_keeps_what_was_set_and_what_is_private(send: Send) -> None:
    got = await send(records, machine())
    assert got.model_fields_set == {"parts", "number", "colour"}
    assert got.parts[0].model_dump(exclude_unset=True) == {"name": "a"}
    assert (got.colour, got._secret) == ("red", "told")


@pytest.mark.parametrize(
    "value",
    [
        Point(1),
        machine(),
        Part(name="a"),
        changed_car(),
        Struct("a"),
        Slug("a"),
        Basket(),
        defaultdict(int),
        ChainMap(),
    ],
    ids=lambda v: type(v).__name__,
)
async def test_none_of_them_travels_unless_an_annotation_names_it(app: App, value: Any) -> None:
    with pytest.raises(SerializationError, match=rf"^value\[0\]: \S*{type(value).__name__} "):
        await untyped([value]).dispatch()


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (Slug("a"), r"pass str\(\.\.\.\), annotate the parameter with it or use register_type"),
        (defaultdict(int), r"pass dict\(\.\.\.\) or use register_type"),
        (object(), "builtins.object cannot be put on the queue; use register_type"),
        (Point(1), r"pass tuple\(\.\.\.\), annotate the parameter"),
    ],
)
async def test_the_refusal_says_what_to_do(app: App, value: Any, advice: str) -> None:
    with pytest.raises(SerializationError, match=advice):
        await untyped(value).dispatch()


async def test_attributes_that_would_be_lost_are_refused(app: App) -> None:
    noted = Noted()
    noted.note = "with care"
    for value in (noted, Slotted("a")):
        with pytest.raises(SerializationError, match=r"^value: .*attributes, which would be lost"):
            await records(value).dispatch()


async def test_a_field_of_any_of_them_has_a_path(app: App) -> None:
    bad: Any = Car("a", [object()])  # type: ignore[list-item]
    with pytest.raises(SerializationError) as caught:
        await records(FrozenCar(bad)).dispatch()
    assert caught.value.path == "value.car.sizes[0]"


class DriversUUID(UUID):
    """As asyncpg has one."""


async def test_a_drivers_own_uuid_travels_as_a_uuid(send: Send) -> None:
    value = DriversUUID(int=5)
    got = await send(records, value)
    assert (type(got), got) == (UUID, value)
    await untyped({value: [value]}).dispatch()


def known(cls: type) -> dict[str, type]:
    return {"t": cls}


@pytest.mark.parametrize(
    ("cls", "content"),
    [
        (Part, [{"name": "a", "__class__": 1}, [], None, {}]),
        (Part, [{"name": "a"}, [], {"more": 1}, {}]),
        (Part, [{"name": "a"}, [], None, {"__dict__": {}}]),
        (Part, {"name": "a"}),
        (Car, {"name": "a", "__class__": 1}),
        (Car, ["a"]),
        (Point, {"x": 1, "y": 1}),
        (Struct, {"myName": "a"}),
        (Slug, 5),
        (Basket, {"a": 1}),
        (Color, 99),
        (Box, {"content": 1, "__class__": 2}),
    ],
)
def test_what_was_not_written_by_a_call_is_refused(cls: type, content: object) -> None:
    body = msgpack.packb(msgpack.ExtType(12, msgpack.packb(["t", content])))
    with pytest.raises(InvalidMessage):
        decode_value(body, known(cls))


# --- aliases that name themselves --------------------------------------------------------

Json = TypeAliasType("Json", "dict[str, Json] | list[Json] | str | int | None")
Tree = TypeAliasType("Tree", "tuple[T, list[Tree[T]]]", type_params=(T,))
Nested = dict[str, "Nested | Item"]


async def test_an_alias_that_names_itself_ends(send: Send) -> None:
    @task(result_ttl=60)
    def walk(value: Json | Nested) -> Json:
        return value  # type: ignore[return-value]

    value: Any = {"a": [1, {"b": None}]}
    assert await send(walk, value) == value


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the `type` statement came with 3.12")
async def test_a_type_statement_that_names_itself_ends(send: Send) -> None:
    names: dict[str, Any] = {"task": task, "Item": Item, "__name__": __name__}
    exec(
        "type Json = dict[str, Json] | list[Json] | Item | None\n"
        "type Pair[T] = tuple[T, Pair[T]] | list[Pair[Item]] | T\n"
        "@task(result_ttl=60)\n"
        "def walk(value: Json | Pair[int]) -> Json: return value\n",
        names,
    )
    assert await send(names["walk"], {"a": [Item("x")]}) == {"a": [Item("x")]}
    exec("type Broken = list[Missing]\n@task\ndef broken(value: Broken): ...", names)
    del registry[names["broken"].name]
    assert "Missing" in names["broken"].annotations.problems["value"]

"""Dataclasses and enums travel where annotations name them, and only there."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from enum import Enum, Flag, IntEnum, StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, NewType, TypedDict, TypeVar

import pytest
from asynctasq import OnMissing, SerializationError, task
from asynctasq.app import App
from asynctasq.tasks.annotations import Declared, annotations_of

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
    assert parameters.declared == {"user": Declared(("load",), "skip", (Item,))}
    assert parameters.parts == {"rest": [Declared((1,), None, (Item,))]}
    assert result.declared == {"": Declared(("x",), None, (int,))}


def test_on_missing_takes_one_of_three() -> None:
    with pytest.raises(ValueError, match="explode"):
        OnMissing("explode")  # type: ignore[arg-type]

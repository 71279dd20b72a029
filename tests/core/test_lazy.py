"""Instances that become their row at the first use, in coroutines and in threads."""

from __future__ import annotations

import asyncio
import copy
import gc
import weakref
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, ClassVar

import pytest
from asynctasq.adapters.lazy import drive, lazy_instance
from asynctasq.errors import AsynctasqError, ReferenceGone, ReferenceUnavailable

greenlet = pytest.importorskip("greenlet")

place: ContextVar[str] = ContextVar("place", default="nowhere")


class Registry(type):
    """A metaclass with a memory, as ORMs have."""

    made: ClassVar[list[str]] = []

    def __new__(mcs, name: str, bases: tuple[type, ...], members: dict[str, Any]) -> type:
        mcs.made.append(name)
        return super().__new__(mcs, name, bases, members)


class Row(metaclass=Registry):
    def __init__(self, pk: int, name: str = "Ann") -> None:
        self.pk = pk
        self.name = name

    def __init_subclass__(cls, *, label: str) -> None:
        raise AssertionError("no model was declared")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.pk == other.pk

    def __hash__(self) -> int:
        return hash(self.pk)

    def __str__(self) -> str:
        return f"row {self.pk}"

    def __len__(self) -> int:
        return 3

    def rename(self, name: str) -> None:
        self.name = name


class Store:
    """Gives rows after a real suspension, and counts how often."""

    def __init__(self) -> None:
        self.fetched = 0
        self.error: BaseException | None = None

    async def fetch(self) -> Row:
        self.fetched += 1
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        return Row(7)


@pytest.fixture
def store() -> Store:
    return Store()


def lazy(store: Store) -> Any:
    return lazy_instance(Row, store.fetch)


USES: list[tuple[Callable[[Any], object], object]] = [
    (lambda row: row.name, "Ann"),
    (lambda row: row.rename("Bob"), None),
    (lambda row: setattr(row, "name", "Bob"), None),
    (lambda row: delattr(row, "name"), None),
    (lambda row: row == Row(7), True),
    (lambda row: Row(7) == row, True),
    (lambda row: Row(8) != row, True),
    (lambda row: row in [Row(1), Row(7)], True),
    (lambda row: row in {Row(7)}, True),
    (lambda row: str(row), "row 7"),
    (lambda row: f"{row}", "row 7"),
    (lambda row: len(row), 3),
    (lambda row: vars(row), {"pk": 7, "name": "Ann"}),
    (lambda row: copy.copy(row).pk, 7),
    (lambda row: "name" in dir(row), True),
]


@pytest.mark.parametrize("use", range(len(USES)))
async def test_any_first_use_fetches_once_and_the_object_becomes_the_row(
    use: int, store: Store
) -> None:
    row = lazy(store)
    act, expected = USES[use]

    async def run() -> object:
        return act(row)

    assert await drive(run()) == expected
    assert store.fetched == 1
    assert type(row) is Row
    assert row.pk == 7


async def test_an_unused_instance_is_an_instance_of_its_class_and_fetches_nothing(
    store: Store,
) -> None:
    row = lazy(store)
    assert isinstance(row, Row)
    assert row.__class__ is Row
    assert issubclass(type(row), Row)
    assert isinstance(object.__new__(type(row)), Row)
    assert store.fetched == 0


async def test_a_placeholder_is_not_announced_to_the_metaclass(store: Store) -> None:
    lazy(store)
    assert Registry.made == ["Row"]


async def test_what_is_set_on_the_argument_is_seen_through_other_references_to_the_row() -> None:
    original = Row(7)

    async def fetch() -> Row:
        return original

    row: Any = lazy_instance(Row, fetch)

    async def run() -> None:
        row.name = "Bob"

    await drive(run())
    assert original.name == "Bob"


async def test_suspensions_before_and_after_the_fetch_work(store: Store) -> None:
    row = lazy(store)

    async def run() -> tuple[str, str]:
        await asyncio.sleep(0)
        before = row.name
        await asyncio.sleep(0)
        return before, row.name

    assert await drive(run()) == ("Ann", "Ann")


async def test_the_fetch_sees_context_variables_of_the_task_and_the_task_those_of_the_fetch() -> (
    None
):
    seen = []

    async def fetch() -> Row:
        seen.append(place.get())
        place.set("fetch")
        return Row(1)

    row: Any = lazy_instance(Row, fetch)

    async def run() -> str:
        place.set("task")
        await asyncio.sleep(0)
        _ = row.pk
        return place.get()

    assert await drive(run()) == "fetch"
    assert seen == ["task"]
    assert place.get() == "fetch", "a driven coroutine shares its caller's context"


async def test_the_current_task_is_the_same_throughout(store: Store) -> None:
    row = lazy(store)

    async def run() -> set[Any]:
        tasks = {asyncio.current_task()}
        _ = row.name
        tasks.add(asyncio.current_task())
        await asyncio.sleep(0)
        return tasks | {asyncio.current_task()}

    assert await drive(run()) == {asyncio.current_task()}


@pytest.mark.parametrize("error", [ReferenceGone("gone"), ReferenceUnavailable("down")])
async def test_an_error_of_the_fetch_is_raised_at_the_use_and_the_next_use_asks_again(
    store: Store, error: Exception
) -> None:
    row = lazy(store)
    store.error = error

    async def run() -> str:
        with pytest.raises(type(error)):
            _ = row.name
        store.error = None
        name: str = row.name
        return name

    assert await drive(run()) == "Ann"
    assert store.fetched == 2


async def test_an_error_of_the_coroutine_passes_through(store: Store) -> None:
    row = lazy(store)

    async def run() -> None:
        raise ValueError(row.name)

    with pytest.raises(ValueError, match="Ann"):
        await drive(run())


async def endless() -> Row:
    await asyncio.Event().wait()
    raise AssertionError


async def test_cancellation_during_the_fetch_reaches_the_task_at_the_use() -> None:
    row: Any = lazy_instance(Row, endless)
    outcome = []

    async def run() -> None:
        try:
            _ = row.name
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            outcome.append("cleaned up")
            raise

    task = asyncio.create_task(drive(run()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert outcome == ["cleaned up"]


async def test_a_timeout_inside_the_task_ends_a_fetch_that_hangs() -> None:
    row: Any = lazy_instance(Row, endless)

    async def run() -> str:
        try:
            async with asyncio.timeout(0.01):
                return str(row.name)
        except TimeoutError:
            return "timed out"

    assert await drive(run()) == "timed out"


async def test_a_timeout_round_the_task_ends_a_fetch_that_hangs() -> None:
    row: Any = lazy_instance(Row, endless)

    async def run() -> None:
        _ = row.name

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(drive(run()), 0.01)


async def test_many_driven_tasks_fetch_at_the_same_time() -> None:
    arrived = 0
    everyone = asyncio.Event()

    async def fetch() -> Row:
        nonlocal arrived
        arrived += 1
        if arrived == 20:
            everyone.set()
        await everyone.wait()
        return Row(arrived)

    async def run(row: Any) -> int:
        pk: int = row.pk
        return pk

    rows = [lazy_instance(Row, fetch) for _ in range(20)]
    async with asyncio.timeout(5):
        assert await asyncio.gather(*(drive(run(row)) for row in rows)) == [20] * 20


async def test_a_driven_coroutine_inside_another_fetches(store: Store) -> None:
    outer, inner = lazy(store), lazy(store)

    async def nested() -> str:
        await asyncio.sleep(0)
        name: str = inner.name
        await asyncio.sleep(0)
        return name + str(outer.pk)

    async def run() -> str:
        await asyncio.sleep(0)
        return await drive(nested())

    assert await drive(run()) == "Ann7"


async def test_a_use_inside_a_greenlet_of_the_task_fetches(store: Store) -> None:
    row = lazy(store)

    async def run() -> object:
        return greenlet.greenlet(lambda: row.name).switch()

    assert await drive(run()) == "Ann"


async def test_a_thread_fetches_on_the_loop(store: Store) -> None:
    row = lazy(store)
    assert await asyncio.to_thread(lambda: row.name) == "Ann"
    assert type(row) is Row


async def test_a_thread_with_a_loop_of_its_own_fetches_on_the_first_one(store: Store) -> None:
    row = lazy(store)

    async def run() -> str:
        name: str = row.name
        return name

    assert await asyncio.to_thread(lambda: asyncio.run(run())) == "Ann"


async def test_a_thread_sees_the_error_of_the_fetch(store: Store) -> None:
    row = lazy(store)
    store.error = ReferenceGone("the row is gone")
    with pytest.raises(ReferenceGone, match="the row is gone"):
        await asyncio.to_thread(lambda: row.name)


async def test_a_first_use_in_another_asyncio_task_says_what_to_do(store: Store) -> None:
    row = lazy(store)

    async def helper() -> str:
        name: str = row.name
        return name

    async def run() -> None:
        await asyncio.create_task(helper())

    with pytest.raises(AsynctasqError, match="use it in the task itself first"):
        await drive(run())
    assert store.fetched == 0


async def test_closing_a_waiting_coroutine_runs_its_cleanup() -> None:
    row: Any = lazy_instance(Row, endless)
    closed = []

    async def run() -> None:
        try:
            _ = row.name
        finally:
            closed.append(True)

    coroutine = drive(run())
    coroutine.send(None)
    coroutine.close()
    assert closed == [True]


async def test_nothing_keeps_a_row_alive_after_its_task(store: Store) -> None:
    row = lazy(store)

    async def run(row: Any) -> None:
        _ = row.name
        await asyncio.sleep(0)

    await drive(run(row))
    remembered = weakref.ref(row)
    del row
    gc.collect()
    assert remembered() is None


async def test_async_generators_and_iterators_work_in_a_driven_coroutine(store: Store) -> None:
    row = lazy(store)

    async def letters() -> Any:
        for letter in row.name:
            await asyncio.sleep(0)
            yield letter

    async def run() -> str:
        return "".join([letter async for letter in letters()])

    assert await drive(run()) == "Ann"


async def test_a_coroutine_without_lazy_instances_runs_as_it_would() -> None:
    async def run(fetch: Callable[[], Awaitable[Row]]) -> int:
        return (await fetch()).pk

    assert await drive(run(Store().fetch)) == 7

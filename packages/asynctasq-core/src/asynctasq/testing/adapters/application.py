"""The base of every part of the suite: the application under test and its capabilities.

Owns the rule that the application's code runs where it would in production: on the event loop if
its ORM is asynchronous, else in one thread that has no event loop.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from dataclasses import replace
from typing import Annotated, Any, ClassVar, TypeVar
from uuid import uuid4

import pytest
import pytest_asyncio

from asynctasq import Call, Ref, Task, TaskHandle, Worker, current_message, init, task
from asynctasq.adapters.plugins import Adapter, installed

from .statements import queries

T = TypeVar("T", bound=Callable[..., Any])
R = TypeVar("R")
Scope = AbstractContextManager[Any] | AbstractAsyncContextManager[Any]

#: After this a worker is cancelled and the test fails; after the second any test does.
LONGEST_WORK_SECONDS, LONGEST_TEST_SECONDS = 30.0, 60


def needs(capability: str) -> Callable[[T], T]:
    """Skip the test in a subclass that does not have this capability."""

    def mark(test: T) -> T:
        test.capability = capability  # type: ignore[attr-defined]
        return test

    return mark


class RolledBack(Exception):
    """Raised by tests to roll back a transaction."""


@pytest.mark.asyncio
@pytest.mark.timeout(LONGEST_TEST_SECONDS)
class ApplicationUnderTest:
    """The application under test; `AdapterSuite` describes what a subclass supplies."""

    adapter: ClassVar[str] = ""
    asynchronous: ClassVar[bool] = True
    composite_keys: ClassVar[bool] = False
    other_keys: ClassVar[bool] = False
    several_databases: ClassVar[bool] = False
    hidden_rows: ClassVar[bool] = False
    knows_deleted: ClassVar[bool] = False
    stale_instances: ClassVar[bool] = False
    sync_tasks: ClassVar[bool] = True
    transactions: ClassVar[bool] = False
    savepoints: ClassVar[bool] = False
    context_transactions: ClassVar[bool] = False
    declared_loading: ClassVar[bool] = False
    locking: ClassVar[bool] = False
    lazy: ClassVar[bool] = False
    outages: ClassVar[bool] = False
    missing_table: ClassVar[bool] = False
    knows_limits: ClassVar[bool] = False
    transactions_end: ClassVar[bool] = True
    counts_connections: ClassVar[bool] = False
    knows_connection: ClassVar[bool] = False
    outbox: ClassVar[bool] = False
    atomic: ClassVar[bool] = False

    # --- always given -------------------------------------------------------------------

    def save(self, name: str) -> Any:
        """Insert and commit a row of the main model; return its instance."""
        raise NotImplementedError

    def save_other(self, name: str) -> Any:
        """Like `save`, for a second model, whose keys also start at 1."""
        raise NotImplementedError

    def new(self, name: str) -> Any:
        """An unsaved instance of the main model."""
        raise NotImplementedError

    def rename(self, row: Any, name: str) -> Any:
        """Change and commit the row behind the back of the instance `row`."""
        raise NotImplementedError

    def delete(self, row: Any) -> Any:
        """Delete the row through its instance, and commit."""
        raise NotImplementedError

    def statements(self) -> AbstractContextManager[list[str]]:
        """A list to which every statement of the ORM is added, from all threads."""
        raise NotImplementedError

    def set_name(self, row: Any, name: str) -> Any:
        """Set the instance's name, in memory only; called where tasks run."""
        row.name = name

    def other_key(self, key: Any, number: int) -> Any:
        """A key that no row has, made from an existing one; by default by replacing its int.

        Args:
            number: At least 1,000,000, and different for each call.
        """
        if not isinstance(key, tuple):
            return number
        last = max(i for i, part in enumerate(key) if type(part) is int)
        return (*key[:last], number, *key[last + 1 :])

    def options(self) -> Mapping[str, Any]:
        """Options for `asynctasq.init` besides the driver."""
        return {}

    def is_query(self, statement: str) -> bool:
        """Whether a statement reads rows; by default a `SELECT ... FROM`."""
        return queries(statement)

    def disconnect(self) -> Any:
        """Called after the test, where the application's code runs."""

    # --- given with a capability --------------------------------------------------------

    def save_composite(self, name: str) -> Any:
        """`composite_keys`: a new row whose key has several columns, one of them an int.

        Each call makes another row.
        """
        raise NotImplementedError

    def save_with_other_keys(self) -> Any:
        """`other_keys`: rows of models with keys of every other type that the ORM supports."""
        raise NotImplementedError

    def save_elsewhere(self, name: str) -> Any:
        """`several_databases`: a row of the main model in a database other than the default."""
        raise NotImplementedError

    def save_hidden(self, name: str) -> Any:
        """`hidden_rows`: a row that the model's default query leaves out."""
        raise NotImplementedError

    def stale(self, row: Any) -> Any:
        """`stale_instances`: the same row, as an instance that would reload its attributes."""
        raise NotImplementedError

    def transaction(self) -> Scope:
        """`transactions`: commits on leaving, or rolls back on leaving by an exception."""
        raise NotImplementedError

    def write(self, transaction: Any, name: str) -> Any:
        """`transactions`: insert a row of the main model in the open transaction.

        By default `save`, for ORMs whose transactions belong to the context.
        """
        return self.save(name)

    def read(self, transaction: Any, row: Any) -> Any:
        """`transactions`: the instance of the row as the open transaction reads it."""
        raise NotImplementedError

    def savepoint(self, transaction: Any) -> Scope:
        """`savepoints`: a part of the open transaction that can be rolled back on its own.

        By default another `transaction()`, for ORMs whose inner transactions are savepoints.
        """
        return self.transaction()

    def save_loadable(self, name: str) -> Any:
        """`declared_loading`: a row with related rows."""
        raise NotImplementedError

    def loading(self) -> Sequence[Any]:
        """`declared_loading`: the annotation's metadata that loads the related rows."""
        raise NotImplementedError

    def loaded(self, row: Any) -> Any:
        """`declared_loading`: the related rows, read without a query, as a task would."""
        raise NotImplementedError

    def lock(self) -> Sequence[Any]:
        """`locking`: the annotation's metadata that locks the row until the task ends."""
        raise NotImplementedError

    def forget_setup(self) -> Any:
        """`lazy`: make the ORM uninitialised, as in a new process."""
        raise NotImplementedError

    def set_up(self) -> Any:
        """`lazy`: initialise the ORM, as a task would."""
        raise NotImplementedError

    def save_changes(self, row: Any) -> Any:
        """`atomic`: write the instance's changes, as an atomic task would.

        Called inside such a task, in its transaction.
        """
        raise NotImplementedError

    def outage(self) -> Scope:
        """`outages`: inside it, the database does not answer."""
        raise NotImplementedError

    def without_table(self) -> Scope:
        """`missing_table`: inside it, the main model's table does not exist."""
        raise NotImplementedError

    def connections(self) -> Any:
        """`counts_connections`: how many connections to the database are open."""
        raise NotImplementedError

    def is_connected(self) -> bool:
        """`knows_connection`: whether the ORM holds an open connection for the calling thread."""
        raise NotImplementedError

    # --- for the tests ------------------------------------------------------------------

    @pytest.fixture
    def _capability(self, request: pytest.FixtureRequest) -> None:
        capability = getattr(request.function, "capability", None)
        if capability is not None and not getattr(self, capability):
            pytest.skip(f"the adapter does not have the capability {capability}")

    @pytest_asyncio.fixture(autouse=True)
    async def _application(self, _capability: None, database: Any) -> AsyncIterator[None]:
        self._threads = ThreadPoolExecutor(1, "application")
        self._thread = await asyncio.wrap_future(self._threads.submit(threading.get_ident))
        self._queue = f"suite-{uuid4().hex[:12]}"
        # A test that fails should not wait for its tasks' retries.
        init(driver="memory", **{"task_defaults": {"retry_delay": 0}, **self.options()})
        yield
        await self.call(self.disconnect)
        init(driver="memory")
        self._threads.shutdown()

    @property
    def hooks(self) -> Adapter:
        """The installed adapter."""
        adapter = installed().loaded.get(self.adapter)
        reports = [f"{r.name} {r.state} {r.reason}" for r in installed().reports]
        assert adapter is not None, f"adapter {self.adapter!r} is not loaded; found: {reports}"
        return adapter

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function of the application where its code runs."""
        if self.asynchronous or threading.get_ident() == self._thread:
            result = function(*args)
            return await result if inspect.isawaitable(result) else result
        return await asyncio.wrap_future(self._threads.submit(function, *args))

    async def run(self, scenario: Callable[[], Coroutine[Any, Any, R]]) -> R:
        """Run a part of a test where the application's code runs.

        Unless the ORM is asynchronous, nothing in it may wait for the event loop.
        """
        if self.asynchronous:
            return await scenario()
        return await asyncio.wrap_future(self._threads.submit(_run_at_once, scenario))

    @asynccontextmanager
    async def within(self, scope: Scope) -> AsyncIterator[Any]:
        """Enter the application's context manager, sync or async, where its code runs."""
        if isinstance(scope, AbstractAsyncContextManager):
            async with scope as value:
                yield value
            return
        value = await self.call(scope.__enter__)
        try:
            yield value
        except BaseException as e:
            if not await self.call(scope.__exit__, type(e), e, e.__traceback__):
                raise
        else:
            await self.call(scope.__exit__, None, None, None)

    async def dispatch(self, call: Call[R]) -> TaskHandle[R]:
        """Dispatch to the test's queue, as the application's code would."""
        call = call.on_queue(self._queue)
        return await call.dispatch() if self.asynchronous else call.dispatch_sync()

    async def send(self, *calls: Call[Any]) -> list[TaskHandle[Any]]:
        """Dispatch calls that no transaction holds back, one after the other."""

        async def scenario() -> list[TaskHandle[Any]]:
            return [await self.dispatch(call) for call in calls]

        return await self.run(scenario)

    async def work(self, concurrency: int = 10) -> None:
        """Run a worker until the queue is empty."""
        async with asyncio.timeout(LONGEST_WORK_SECONDS):
            await self.worker(concurrency).run()

    def worker(self, concurrency: int = 10) -> Worker:
        """A worker that ends once its queue is empty."""
        return Worker(queues=[self._queue], concurrency=concurrency, burst=True)

    async def reference(self, row: Any, options: Sequence[Any] = ()) -> Ref:
        """The adapter's reference for the row, after a trip through a message."""
        ref: Ref = await self.call(self.hooks.to_ref, row)
        return replace(ref, orm=self.adapter, options=tuple(options))

    async def fetch(self, refs: Sequence[Ref]) -> list[Any]:
        """The adapter's rows for references."""
        adapter = installed().owner_of_reference(refs[0])
        assert adapter is self.hooks
        assert adapter.fetch_many is not None
        return list(await adapter.fetch_many(refs))

    def is_model(self, obj: object) -> bool:
        """Whether the object is an instance of one of the adapter's models."""
        return installed().owner_of(obj) is self.hooks

    def count(self, statements: Sequence[str]) -> int:
        """How many of the statements read rows."""
        return sum(map(self.is_query, statements))


def _run_at_once(scenario: Callable[[], Coroutine[Any, Any, R]]) -> R:
    coroutine = scenario()
    try:
        coroutine.send(None)
    except StopIteration as e:
        result: R = e.value
        return result
    coroutine.close()
    raise RuntimeError("code that runs without an event loop waited for one")


class Seen:
    """Tasks that record the instances they were given.

    Attributes:
        names: The `name` of each instance, read while its task ran.
        instances: The instances.
        attempts: The attempt number of each run, in order.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.instances: list[Any] = []
        self.attempts: list[int] = []

    def note(self, *rows: Any) -> None:
        """Record the instances of one run."""
        self.names += [row.name for row in rows]
        self.instances += rows
        self.attempts.append(current_message().attempt)

    def task(self, *metadata: Any, **options: Any) -> Task[..., Any]:
        """A new task with one parameter `row`, whose annotation has this metadata."""

        async def read(row: Any) -> None:
            self.note(row)

        if metadata:
            read.__annotations__["row"] = Annotated[(object, *metadata)]
        return task(name=f"read-{uuid4().hex[:12]}", **options)(read)

"""An ORM that keeps its rows in this process, and its adapter: what core itself needs of one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass
from typing import Any, TypeVar

from asynctasq import (
    AdapterNotReady,
    DeferredSend,
    InvalidReference,
    Message,
    Ref,
    ReferenceUnavailable,
    UnsavedModelError,
    class_path,
    hookimpl,
    send_together,
    send_together_async,
)


class Row:
    """A model's instance; its key says whether it was saved."""

    def __init__(self, pk: Any, name: str = "", db: str | None = None) -> None:
        self.pk = pk
        self.name = name
        self.db = db


R = TypeVar("R", bound=Row)


class User(Row):
    """A model."""


class Order(Row):
    """Another model."""


@dataclass(frozen=True)
class Load:
    """A loading option; `in_task_scope` as a lock would have it."""

    what: str
    in_task_scope: bool = False


class Toy:
    """The adapter, and the database behind it.

    Attributes:
        asked: The references of each `fetch_many`.
        failing: How often the database cannot answer from now on.
        pending: Instances that the open transaction wrote.
        waiting: What waits for the transaction's end.
        scopes: Ids of messages whose scope is open.
        threads: Names of threads whose scope is open, each with the open scopes of messages.
        types_asked: Of each `is_model`.
        meeting: Where fetches wait for each other.
    """

    def __init__(self) -> None:
        self.rows: dict[tuple[type, str | None, Any], str] = {}
        self.asked: list[list[Ref]] = []
        self.failing = 0
        self.is_ready = True
        self.pending: list[object] = []
        self.waiting: list[DeferredSend] = []
        self.scopes: list[str] = []
        self.threads: dict[str, list[str]] = {}
        self.types_asked: list[type] = []
        self.transaction: object | None = None
        self.meeting: asyncio.Barrier | None = None

    def save(self, row: R) -> R:
        """Write the row to the database."""
        self.rows[type(row), row.db, row.pk] = row.name
        return row

    def commit(self) -> None:
        """End the transaction from synchronous code."""
        self.pending.clear()
        sends, self.waiting = self.waiting, []
        send_together(sends)

    async def commit_async(self) -> None:
        """End the transaction on the event loop."""
        self.pending.clear()
        sends, self.waiting = self.waiting, []
        await send_together_async(sends)

    def roll_back(self) -> None:
        """Undo the transaction."""
        self.pending.clear()
        sends, self.waiting = self.waiting, []
        for send in sends:
            send.drop()

    @hookimpl
    def is_model(self, obj: object) -> bool:
        self.types_asked.append(type(obj))
        return issubclass(type(obj), Row)

    @hookimpl
    def to_ref(self, obj: Row) -> Ref:
        if obj.pk is None:
            raise UnsavedModelError(f"this {type(obj).__name__} has no row yet: save it first")
        return Ref(class_path(type(obj)), obj.pk, obj.db)

    @hookimpl
    async def fetch_many(self, refs: Sequence[Ref]) -> list[object | None]:
        await asyncio.sleep(0)
        self.asked.append(list(refs))
        if self.meeting is not None:
            await self.meeting.wait()
        if not self.is_ready:
            raise AdapterNotReady("not initialised")
        if self.failing:
            self.failing -= 1
            raise ReferenceUnavailable("the database is down")
        model = refs[0].model_class()
        if any(ref.pk == "impossible" for ref in refs):
            raise InvalidReference("no such key")
        return [self._instance(model, ref) for ref in refs]

    def _instance(self, model: type[Any], ref: Ref) -> object | None:
        name = self.rows.get((model, ref.db, ref.pk))
        return None if name is None else model(ref.pk, name, ref.db)

    @hookimpl
    def task_scope(
        self, message: Message, instances: Sequence[object]
    ) -> AbstractAsyncContextManager[None]:
        @asynccontextmanager
        async def scope() -> AsyncIterator[None]:
            self.scopes.append(message.id)
            try:
                yield
            finally:
                self.scopes.remove(message.id)

        return scope()

    @hookimpl
    def thread_scope(self) -> AbstractContextManager[None]:
        @contextmanager
        def scope() -> Iterator[None]:
            name = threading.current_thread().name
            self.threads[name] = list(self.scopes)
            try:
                yield
            finally:
                del self.threads[name]

        return scope()

    @hookimpl
    def is_pending_write(self, obj: object) -> bool:
        return any(obj is other for other in self.pending)

    @hookimpl
    def after_commit(self, obj: object, send: DeferredSend) -> None:
        self.waiting.append(send)

    @hookimpl
    def owns_transaction(self, target: object) -> bool:
        return target == "toy"

    @hookimpl
    def open_transaction(self) -> object | None:
        return self.transaction

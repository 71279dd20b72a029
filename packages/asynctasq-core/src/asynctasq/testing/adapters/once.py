"""What is committed is sent, and what is done is done: the outbox and atomic tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

from asynctasq import Database, Statement, Task, TaskHandle, TaskStatus, init, task
from asynctasq.app import current
from asynctasq.brokers import Outgoing
from asynctasq.sending import tables
from asynctasq.sending.preparing import prepare
from asynctasq.services.relay import Relay
from asynctasq.tasks.task import registry

from .application import ApplicationUnderTest, RolledBack, Seen, needs

#: Nothing listens there.
_AWAY = {"url": "redis://127.0.0.1:1/0", "timeout": 20.0, "connect_timeout": 20.0}


class OnceTests(ApplicationUnderTest):
    """`databases`, `own_transaction` and `atomic_transaction`, and what `after_commit` keeps."""

    # --- the outbox ---------------------------------------------------------------------

    @needs("outbox")
    async def test_a_commit_neither_fails_nor_waits_without_the_broker(self) -> None:
        seen = Seen()
        read = seen.task()
        async with self._with_outbox() as database:
            init(driver="redis", redis=_AWAY, outbox=True, **self.options())
            with self.statements() as statements:
                async with asyncio.timeout(10):
                    await self._dispatch_many(read, "Ada", "Grace", "Joan")
            assert sum(_is_insert(statement) for statement in statements) == 1
            assert await self._count_kept(database) == 3
            init(driver="memory", outbox=True, **self.options())
            await self._relay_all(database)
            assert await self._count_kept(database) == 0
            await self.work()
        assert sorted(seen.names) == ["Ada", "Grace", "Joan"]

    @needs("outbox")
    async def test_what_was_sent_leaves_the_outbox(self) -> None:
        seen = Seen()
        async with self._with_outbox() as database:
            await self._dispatch_many(seen.task(), "Ada")
            async with asyncio.timeout(10):
                while await self._count_kept(database):  # noqa: ASYNC110 - nothing tells of it
                    await asyncio.sleep(0.01)
            await self.work()
        assert seen.names == ["Ada"]

    @needs("outbox")
    async def test_rolled_back_calls_are_not_in_the_outbox(self) -> None:
        read, handles = Seen().task(), list[TaskHandle[Any]]()

        async def scenario() -> None:
            with suppress(RolledBack):
                async with self.within(self.transaction()) as transaction:
                    row = await self.call(self.write, transaction, "Ada")
                    handles.append(await self.dispatch(read(row)))
                    raise RolledBack
            if not self.savepoints:
                return
            async with self.within(self.transaction()) as transaction:
                await self.call(self.write, transaction, "Grace")
                with suppress(RolledBack):
                    async with self.within(self.savepoint(transaction)):
                        row = await self.call(self.write, transaction, "Joan")
                        handles.append(await self.dispatch(read(row)))
                        raise RolledBack

        async with self._with_outbox() as database:
            init(driver="redis", redis=_AWAY, outbox=True, **self.options())
            await self.run(scenario)
            assert await self._count_kept(database) == 0
        assert {await handle.status() for handle in handles} == {TaskStatus.DROPPED}

    @needs("outbox")
    async def test_two_relays_at_once_send_each_call_once(self) -> None:
        seen = Seen()
        async with self._with_outbox() as database:
            init(driver="redis", redis=_AWAY, outbox=True, **self.options())
            names = [f"name {i}" for i in range(20)]
            await self._dispatch_many(seen.task(), *names)
            init(driver="memory", outbox=True, **self.options())
            await asyncio.gather(self._relay_all(database), self._relay_all(database))
            await self.work()
        assert sorted(seen.names) == sorted(names)

    # --- atomic tasks -------------------------------------------------------------------

    @needs("atomic")
    async def test_an_atomic_task_is_not_run_again_once_it_has_committed(self) -> None:
        runs = list[str]()
        async with self._with_outbox():
            change = self._changing(runs)
            row = await self.call(self.save, "Ada")
            message = await self._message(change, row)
            for _ in range(3):
                await current().open_broker().put([message])
                await self.work()
            assert runs == ["Ada"]
            assert await self._name_of(row) == "Ada!"
            handle = change.handle(message.id, message.queue)
            assert await handle.result(10) == "Ada!"

    @needs("atomic")
    async def test_an_atomic_task_that_fails_leaves_nothing(self) -> None:
        seen, runs = Seen(), list[str]()
        async with self._with_outbox() as database:
            change = self._changing(runs, seen.task(), fails=True)
            row = await self.call(self.save, "Ada")
            handle = (await self.send(change(row)))[0]
            await self.work()
            assert await handle.status() == TaskStatus.DEAD
            assert await self._name_of(row) == "Ada"
            assert await self._count_kept(database) == 0
            await self.work()
        assert (runs, seen.names) == (["Ada"], [])

    @needs("atomic")
    async def test_what_an_atomic_task_dispatches_is_part_of_its_transaction(self) -> None:
        seen, runs = Seen(), list[str]()
        async with self._with_outbox():
            change = self._changing(runs, seen.task())
            row = await self.call(self.save, "Ada")
            message = await self._message(change, row)
            for _ in range(2):
                await current().open_broker().put([message])
                await self.work()
        assert (runs, seen.names) == (["Ada"], ["Ada!"])

    # --- what these stand on ------------------------------------------------------------

    def _changing(
        self, runs: list[str], following: Task[..., Any] | None = None, *, fails: bool = False
    ) -> Task[..., Any]:
        """An atomic task that changes its row and dispatches the next."""

        def begin(row: Any) -> None:
            runs.append(row.name)
            self.set_name(row, f"{row.name}!")

        def end(row: Any) -> str:
            if fails:
                raise LookupError("no")
            return str(row.name)

        async def change(row: Any) -> str:
            begin(row)
            await self.save_changes(row)
            if following is not None:
                await following(row).on_queue(self._queue).dispatch()
            return end(row)

        def change_in_thread(row: Any) -> str:
            begin(row)
            self.save_changes(row)
            if following is not None:
                following(row).on_queue(self._queue).dispatch_sync()
            return end(row)

        function: Any = change if self.asynchronous else change_in_thread
        name = f"change-{uuid4().hex[:12]}"
        made: Any = task(name=name, atomic=True, max_attempts=1, result_ttl=60)(function)
        return made  # type: ignore[no-any-return]

    async def _message(self, change: Task[..., Any], row: Any) -> Outgoing:
        app = current()
        call = change(row).on_queue(self._queue).on_commit(False)
        message: Outgoing = await self.call(
            lambda: prepare(call, app.config, app.adapters).outgoing
        )
        return message

    async def _dispatch_many(self, read: Task[..., Any], *names: str) -> None:
        """Write rows of these names in one transaction, and dispatch a call for each."""

        async def scenario() -> None:
            async with self.within(self.transaction()) as transaction:
                for name in names:
                    await self.dispatch(read(await self.call(self.write, transaction, name)))

        await self.run(scenario)

    @asynccontextmanager
    async def _with_outbox(self) -> AsyncIterator[Database]:
        """An application with an outbox, whose empty tables are in the main model's database."""
        known = set(registry)
        init(driver="memory", outbox=True, **self.options())
        assert self.hooks.databases is not None
        [database, *_] = self.hooks.databases()
        await self._run_on(database, *tables.creation(database.dialect))
        emptying = [Statement(f"DELETE FROM {t}") for t in (tables.OUTBOX, tables.DONE)]
        await self._run_on(database, *emptying)
        yield database
        for name in set(registry) - known:  # later workers would run services for atomic tasks
            del registry[name]
        await current().outbox.flush()
        await self._run_on(database, *emptying)

    async def _run_on(self, database: Database, *statements: Statement) -> Sequence[Sequence[Any]]:
        assert self.hooks.own_transaction is not None
        rows: Sequence[Sequence[Any]] = ()
        async with self.hooks.own_transaction(database) as run:
            for statement in statements:
                rows = await run(statement)
        return rows

    async def _count_kept(self, database: Database) -> int:
        [(count, _)] = await self._run_on(database, tables.count_and_oldest())
        return int(count)

    async def _relay_all(self, database: Database) -> None:
        """Let the relay look twice: it first leaves rows to the process that dispatched them."""
        relay = Relay(current().outbox, current().open_broker())
        for _ in range(2):
            await relay._send_due(self.hooks, database)

    async def _name_of(self, row: Any) -> str:
        [found] = await self.fetch([await self.reference(row)])
        return str(found.name)


def _is_insert(statement: str) -> bool:
    return tables.OUTBOX in statement and "INSERT" in statement.upper()

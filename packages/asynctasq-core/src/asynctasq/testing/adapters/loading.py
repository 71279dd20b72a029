"""Loading that annotations ask for, and ORMs that are initialised only inside the task."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any
from uuid import uuid4

from asynctasq import task

from .application import ApplicationUnderTest, Seen, needs
from .sharing import assert_not_shared


class LoadingTests(ApplicationUnderTest):
    """Metadata of annotations, and arguments that fetch themselves."""

    @needs("declared_loading")
    async def test_what_the_annotation_asks_for_is_loaded_without_a_further_query(self) -> None:
        got, statements = list[Any](), list[int]()
        seen = Seen()
        row = await self.call(self.save_loadable, "Ada")
        with self.statements() as sent:

            async def read(row: Any) -> None:
                before = self.count(sent)
                got.append(self.loaded(row))
                statements.append(self.count(sent) - before)
                seen.note(row)

            await self.send(_annotated(read, self.loading())(row))
            await self.work()
        assert seen.names == ["Ada"]
        assert got[0], "nothing was loaded"
        assert statements == [0]

    @needs("declared_loading")
    async def test_one_row_loaded_in_two_ways_is_one_instance_with_all_that_is_asked_for(
        self,
    ) -> None:
        seen, are_one = Seen(), list[bool]()

        async def read(plain: Any, row: Any) -> None:
            are_one.append(plain is row)
            assert self.loaded(plain)
            seen.note(plain)

        row = await self.call(self.save_loadable, "Ada")
        await self.send(_annotated(read, self.loading())(row, row))
        await self.work()
        assert (are_one, seen.names) == ([True], ["Ada"])

    @needs("declared_loading")
    async def test_two_instances_of_one_row_share_none_of_the_rows_they_load(self) -> None:
        ref = await self.reference(await self.call(self.save_loadable, "Ada"), self.loading())
        one, other = await self.fetch([ref, ref])
        assert_not_shared(one, other, self.is_model)

    @needs("declared_loading")
    async def test_tasks_taken_together_share_the_queries_of_what_they_load(self) -> None:
        seen = Seen()
        rows = [await self.call(self.save_loadable, f"name {i}") for i in range(20)]
        read = seen.task(*self.loading())
        await self.send(*map(read, rows))
        with self.statements() as statements:
            await self.work(concurrency=20)
        assert sorted(seen.names) == sorted(f"name {i}" for i in range(20))
        assert self.count(statements) <= 6

    @needs("locking")
    async def test_tasks_that_lock_one_row_run_one_after_the_other(self) -> None:
        running, most = 0, 0
        seen = Seen()

        async def hold(row: Any) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            seen.note(row)
            await asyncio.sleep(0.05)  # long enough to let the others in, if the lock does not hold
            running -= 1

        row = await self.call(self.save, "Ada")
        locked = _annotated(hold, self.lock())
        await self.send(*(locked(row) for _ in range(4)))
        await self.work(concurrency=4)
        assert (seen.names, most) == (["Ada"] * 4, 1)

    @needs("lazy")
    async def test_an_argument_fetches_itself_once_the_task_has_set_the_orm_up(self) -> None:
        seen, types = Seen(), list[type]()

        async def read(row: Any) -> None:
            await self.call(self.set_up)
            types.append(type(row) if isinstance(row, model) else object)
            seen.note(row)

        row = await self.call(self.save, "Ada")
        model = type(row)
        await self.send(task(name=f"read-{uuid4().hex}", max_attempts=1)(read)(row))
        await self.call(self.forget_setup)
        await self.work()
        await self.call(self.set_up)
        assert seen.names == ["Ada"]
        assert types != [object]

    @needs("lazy")
    async def test_an_argument_that_was_not_fetched_is_passed_on_as_it_came(self) -> None:
        seen = Seen()

        async def read(row: Any) -> None:
            await self.call(self.set_up)
            seen.note(row)

        read_task = task(name=f"read-{uuid4().hex}", max_attempts=1)(read)

        async def pass_on(row: Any) -> None:
            await self.dispatch(read_task(row))

        row = await self.call(self.save, "Ada")
        with self.statements() as statements:
            await self.send(task(name=f"pass-{uuid4().hex}", max_attempts=1)(pass_on)(row))
            await self.call(self.forget_setup)
            await self.work()
        await self.call(self.set_up)
        assert seen.names == ["Ada"]
        assert self.count(statements) == 1


def _annotated(function: Any, metadata: Any) -> Any:
    """The function as a task whose parameter `row` has this metadata."""
    function.__annotations__["row"] = Annotated[(object, *metadata)]
    return task(name=f"loading-{uuid4().hex}", max_attempts=1)(function)

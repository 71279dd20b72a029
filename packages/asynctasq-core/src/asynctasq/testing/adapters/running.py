"""Tasks with instances, from dispatch to the end of their run."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from asynctasq import AsyncTask, task

from .application import ApplicationUnderTest, Seen, needs


@dataclass
class Parcel:
    """An application's dataclass with a row in a field."""

    row: Any
    label: str


class RunningTests(ApplicationUnderTest):
    """What a task receives, and what it leaves behind."""

    async def test_a_task_gets_the_row_as_it_is_when_it_runs(self) -> None:
        seen = Seen()
        row = await self.call(self.save, "Ada")
        await self.send(seen.task()(row))
        await self.call(self.rename, row, "Grace")
        await self.work()
        assert seen.names == ["Grace"]
        assert type(seen.instances[0]) is type(row)
        assert seen.instances[0] is not row

    @needs("sync_tasks")
    async def test_a_def_task_gets_the_row_in_its_thread(self) -> None:
        seen, threads = Seen(), list[int]()

        def read(row: Any, repeat: int) -> None:
            threads.append(threading.get_ident())
            seen.note(*[row] * repeat)

        read_task = task(name=f"read-{uuid4().hex}")(read)
        row = await self.call(self.save, "Ada")
        await self.send(read_task(row, repeat=2))
        await self.work()
        assert seen.names == ["Ada", "Ada"]
        assert threads[0] != threading.get_ident()

    async def test_a_class_based_task_gets_the_row_in_its_init(self) -> None:
        seen = Seen()

        class Read(AsyncTask[None]):
            config = {"name": f"read-{uuid4().hex}"}  # noqa: RUF012

            def __init__(self, row: Any) -> None:
                self.row = row

            async def execute(self) -> None:
                seen.note(self.row)

        row = await self.call(self.save, "Ada")
        await self.send(Read._task(row))
        await self.work()
        assert seen.names == ["Ada"]

    async def test_a_retry_gets_the_row_anew(self) -> None:
        seen = Seen()

        async def fail_once(row: Any) -> None:
            seen.note(row)
            if len(seen.names) == 1:
                await self.call(self.rename, row, "Grace")
                raise ValueError("again")

        row = await self.call(self.save, "Ada")
        again = task(name=f"fail-{uuid4().hex}", retry_delay=0)(fail_once)
        await self.send(again(row))
        await self.work()
        assert (seen.names, seen.attempts) == (["Ada", "Grace"], [1, 2])
        assert seen.instances[0] is not seen.instances[1]

    async def test_two_tasks_never_share_an_instance(self) -> None:
        seen = Seen()
        row = await self.call(self.save, "Ada")
        both = asyncio.Barrier(2)

        async def change(row: Any, name: str) -> None:
            before = row.name
            self.set_name(row, name)
            await both.wait()  # both have their instances and have changed them
            assert row.name == name
            self.set_name(row, before)
            seen.note(row)

        change_task = task(name=f"change-{uuid4().hex}", timeout=20, max_attempts=1)(change)
        await self.send(change_task(row, "one"), change_task(row, "other"))
        await self.work()
        assert seen.names == ["Ada", "Ada"]
        assert seen.instances[0] is not seen.instances[1]

    async def test_the_same_row_twice_in_one_task_is_one_instance(self) -> None:
        seen = Seen()

        async def compare(row: Any, others: list[Any], other: Any) -> None:
            seen.note(row, *others, other)

        row, other = await self.call(self.save, "Ada"), await self.call(self.save_other, "x")
        await self.send(task(name=f"compare-{uuid4().hex}")(compare)(row, [row, row], other=other))
        await self.work()
        assert seen.names == ["Ada", "Ada", "Ada", "x"]
        first, second, third, fourth = seen.instances
        assert first is second is third
        assert type(fourth) is type(other)

    async def test_rows_of_two_models_with_the_same_key_are_told_apart(self) -> None:
        seen = Seen()
        row, other = await self.call(self.save, "Ada"), await self.call(self.save_other, "x")
        await self.send(seen.task()(row), seen.task()(other))
        await self.work()
        assert sorted(seen.names) == ["Ada", "x"]
        assert {type(i) for i in seen.instances} == {type(row), type(other)}

    async def test_instances_arrive_inside_containers_and_dataclasses(self) -> None:
        seen, got = Seen(), list[Any]()

        async def unpack(box: dict[str, Any], parcel: Parcel, *more: Any) -> None:
            got.extend([box, parcel, *more])
            seen.note(*box["list"], box["tuple"][1], parcel.row, *more)

        rows = [await self.call(self.save, f"name {i}") for i in range(6)]
        box = {"list": rows[:2], "tuple": (1, rows[2]), "none": None}
        call = task(name=f"unpack-{uuid4().hex}")(unpack)(box, Parcel(rows[3], "x"), *rows[4:])
        await self.send(call)
        await self.work()
        assert seen.names == [f"name {i}" for i in range(6)]
        assert (type(got[0]["tuple"]), got[0]["none"], got[1].label) == (tuple, None, "x")
        assert type(got[1]) is Parcel

    async def test_instances_arrive_inside_sets(self) -> None:
        seen = Seen()

        async def unpack(rows: set[Any]) -> None:
            assert type(rows) is set
            seen.note(*rows)

        row = await self.call(self.save, "Ada")
        if type(row).__hash__ is None:
            return  # such models cannot be in a set where they are sent from, either
        await self.send(task(name=f"unpack-{uuid4().hex}")(unpack)({row}))
        await self.work()
        assert seen.names == ["Ada"]

    async def test_tasks_taken_together_cost_one_query(self) -> None:
        seen = Seen()
        read = seen.task()
        rows = [await self.call(self.save, f"name {i}") for i in range(100)]
        await self.send(*(read(row) for row in rows))
        with self.statements() as statements:
            await self.work(concurrency=100)
        assert sorted(seen.names) == sorted(f"name {i}" for i in range(100))
        assert self.count(statements) <= 2

    @needs("composite_keys")
    async def test_a_row_with_a_composite_key_arrives(self) -> None:
        seen = Seen()
        await self.send(seen.task()(await self.call(self.save_composite, "Ada")))
        await self.work()
        assert seen.names == ["Ada"]

    @needs("several_databases")
    async def test_rows_of_two_databases_arrive_in_one_task(self) -> None:
        seen = Seen()

        async def read(here: Any, there: Any) -> None:
            seen.note(here, there)

        here = await self.call(self.save, "here")
        there = await self.call(self.save_elsewhere, "there")
        await self.send(task(name=f"read-{uuid4().hex}")(read)(here, there))
        await self.work()
        assert seen.names == ["here", "there"]

    @needs("counts_connections")
    async def test_a_def_task_leaves_no_connection_in_its_thread_however_it_ends(self) -> None:
        if self.asynchronous or not self.sync_tasks:
            return
        counts = list[int]()

        def use(name: str) -> None:
            self.save(name)
            if name == "bad":
                raise ValueError(name)

        async def count() -> None:
            counts.append(await self.call(self.connections))

        use_task = task(name=f"use-{uuid4().hex}", max_attempts=1)(use)
        count_task = task(name=f"count-{uuid4().hex}", max_attempts=1)(count)
        await self.send(count_task())
        for fate in ("good", "bad"):
            await self.send(*(use_task(fate) for _ in range(4)), count_task())
        await self.work(concurrency=1)
        assert counts == [counts[0]] * 3, counts

    @needs("knows_connection")
    async def test_a_def_task_finds_no_connection_of_the_one_before_it_in_its_thread(self) -> None:
        found = list[tuple[bool, bool]]()

        def use(name: str) -> None:
            before = self.is_connected()
            self.save(name)
            found.append((before, self.is_connected()))
            if name == "bad":
                raise ValueError(name)

        use_task = task(name=f"use-{uuid4().hex}", max_attempts=1)(use)
        await self.send(*(use_task(fate) for fate in ("good", "good", "bad", "good")))
        await self.work(concurrency=1)
        assert found == [(False, True)] * 4

    @needs("counts_connections")
    async def test_the_number_of_connections_stays_what_it_was(self) -> None:
        seen = Seen()

        async def read(row: Any, fate: str) -> None:
            seen.note(row)
            if fate == "late":
                await asyncio.sleep(60)
            assert fate == "good"

        def read_in_thread(row: Any, fate: str) -> None:
            seen.note(row)
            assert fate == "good"

        tasks = [task(name=f"read-{uuid4().hex}", max_attempts=1)(read)]
        if self.sync_tasks:
            tasks.append(task(name=f"read-{uuid4().hex}", max_attempts=1)(read_in_thread))
        row = await self.call(self.save, "Ada")
        counts = []
        for number in (20, 100, 100):
            fates = ["bad" if i % 5 == 0 else "late" if i == 2 else "good" for i in range(number)]
            calls = [tasks[i % len(tasks)](row, fate) for i, fate in enumerate(fates)]
            # Only the late task has a timeout, in which even a slow machine fetches its row.
            calls[2] = calls[2].timeout(2.0)
            await self.send(*calls)
            await self.work()
            counts.append(await self.call(self.connections))
        assert len(seen.names) == 220
        assert counts[2] <= counts[0], counts

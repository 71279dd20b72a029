"""Instances in child processes, in several worker processes and in forked ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import asyncio
import os
from pathlib import Path
from asynctasq import init, task
from tortoise import Tortoise, connections, fields
from tortoise.models import Model


class User(Model):
    email = fields.CharField(max_length=50)


DATABASE = {"db_url": "DATABASE_URL", "modules": {"models": ["shop"]}}
PLACE = Path("meeting_place")
init(tortoise_config=DATABASE)


async def backend() -> int:
    client = connections.get("default")
    (row,) = await client.execute_query_dict("SELECT pg_backend_pid() AS pid")
    return row["pid"]


@task(process=True, max_attempts=1)
def work(user: User) -> None:
    Path(f"{os.getpid()}.child").write_text(user.email)


@task(max_attempts=1)
async def meet(user: User) -> None:
    # Ends once another process is here as well.
    mine = PLACE / f"{os.getpid()}.waiting"
    mine.write_text(str(await backend()))
    async with asyncio.timeout(30):
        while len(list(PLACE.iterdir())) < 2:
            await asyncio.sleep(0.01)
    assert user.email == "ada@example.com"
    mine.rename(mine.with_suffix(".met"))


async def main() -> None:
    PLACE.mkdir()
    await Tortoise.init(**DATABASE)
    await Tortoise.generate_schemas()
    user = await User.create(email="ada@example.com")
    for _ in range(2):
        await meet(user).dispatch()
    await work(user).dispatch()
    await Tortoise.close_connections()
"""
#: A server that has Tortoise initialised and a connection open, and then forks its workers.
FORK = """
import asyncio
import multiprocessing
import shop
from asynctasq import Worker
from tortoise import Tortoise


# So that the children find it initialised, as they always do with 0.x.
EVERYWHERE = {"_enable_global_fallback": True} if hasattr(Tortoise, "_get_context") else {}


async def start() -> int:
    await Tortoise.init(**shop.DATABASE, **EVERYWHERE)
    return await shop.backend()


def serve() -> None:
    asyncio.run(Worker(concurrency=1, burst=True, modules=["shop"]).run())


if __name__ == "__main__":
    with asyncio.Runner() as parent:
        mine = parent.run(start())
        context = multiprocessing.get_context("fork")
        workers = [context.Process(target=serve) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
            assert worker.exitcode == 0
        assert parent.run(shop.backend()) == mine
        parent.run(Tortoise.close_connections())
    print(mine)
"""


class Shop:
    """The program, with rows and calls on the queue."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        (folder / "shop.py").write_text(PROGRAM.replace("DATABASE_URL", url))
        (folder / "fork.py").write_text(FORK)
        self.run("-c", "import asyncio, shop; asyncio.run(shop.main())")

    def run(self, *command: str) -> str:
        """Run Python; its output."""
        done = subprocess.run(
            [sys.executable, *command],
            cwd=self._folder,
            env={k: v for k, v in os.environ.items() if not k.startswith("ASYNCTASQ_")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def met(self) -> dict[str, str]:
        """The processes that met, each with the process at its connection's other end."""
        place = self._folder / "meeting_place"
        return {file.stem: file.read_text() for file in place.glob("*.met")}

    def children(self) -> dict[str, str]:
        """What tasks with a process of their own saw of the row, by process."""
        return {file.stem: file.read_text() for file in self._folder.glob("*.child")}


@pytest.fixture
def shop(tmp_path: Path, postgres_url: str) -> Shop:
    return Shop(tmp_path, postgres_url)


def test_each_process_has_a_connection_of_its_own(shop: Shop) -> None:
    two = ("--processes", "2", "--concurrency", "1")
    shop.run("-m", "asynctasq", "worker", "shop", "--burst", *two)
    met, children = shop.met(), shop.children()
    assert len(met) == len(set(met.values())) == 2
    assert list(children.values()) == ["ada@example.com"]
    assert met.keys().isdisjoint(children)


def test_a_forked_worker_connects_anew_and_leaves_the_parents_connection_alone(shop: Shop) -> None:
    parent = shop.run("fork.py").strip()
    met = shop.met()
    assert len({parent, *met.values()}) == 3
    assert len(met) == 2

"""Benchmarks that run for each ORM, in a process of its own with a database of its own."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench import report
from bench.running import output
from bench.servers import postgres_database, redis_server

ORMS = ["sqlalchemy", "django", "tortoise"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where to measure.

    Attributes:
        orm: The module in `bench.orms` of this name.
    """

    name: str
    orm: Any
    rows: list[Any]
    redis_url: str
    postgres_url: str


Measure = Callable[[Place], Awaitable[dict[str, float]]]


def parser(doc: str | None, n: int, repeat: int, orms: Sequence[str] = ORMS) -> Any:
    """The command line of such a benchmark."""
    made = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    made.add_argument("orms", nargs="*", default=orms)
    made.add_argument("--n", type=int, default=n, help=f"rows; {n}")
    made.add_argument("--repeat", type=int, default=repeat, help=str(repeat))
    made.add_argument("--inside", nargs=2, metavar="URL", help=argparse.SUPPRESS)
    return made


def compare(
    args: argparse.Namespace, module: str, columns: Sequence[report.Column], measure: Measure
) -> None:
    """Measure each ORM and print the table; inside, measure one and print JSON.

    Args:
        module: The benchmark's, which the processes run.
    """
    if args.inside:
        print(json.dumps(_run(_inside(args, measure))))
        return
    runs: dict[str, list[dict[str, float]]] = {}
    versions = ["asynctasq-core"]
    for name in args.orms:
        with redis_server() as redis_url, postgres_database() as postgres_url:
            command = [sys.executable, "-m", module, name, "--n", str(args.n)]
            more = ["--repeat", str(args.repeat), "--inside", redis_url, postgres_url]
            runs[name] = json.loads(output([*command, *more]).splitlines()[-1])
        versions += importlib.import_module(f"bench.orms.{name}").DISTRIBUTIONS
    print(report.table(columns, runs) + "\n")
    print(report.circumstances(*versions, rows=args.n, repetitions=args.repeat))


def _run(inside: Any) -> Any:
    try:
        from uvloop import run
    except ImportError:
        return asyncio.run(inside)
    return run(inside)


async def _inside(args: argparse.Namespace, measure: Measure) -> list[dict[str, float]]:
    (name,), (redis_url, postgres_url) = args.orms, args.inside
    orm = importlib.import_module(f"bench.orms.{name}")
    await orm.connect(postgres_url)
    place = Place(name, orm, await orm.make_rows(args.n), redis_url, postgres_url)
    found = [await measure(place) for _ in range(args.repeat)]
    await orm.close()
    return found

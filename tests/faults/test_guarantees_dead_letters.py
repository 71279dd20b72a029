"""Thousands of dead letters, from the command line and from Python."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from .deployments import Deployment

COUNT = 2000


@pytest.fixture
def dead(deployment: Deployment) -> dict[str, Any]:
    """Dead letters by id, as the command line lists them."""
    deployment.dispatch(f"*(fail(n) for n in range({COUNT}))")
    options = ("--burst", "--concurrency", "100", "--log-level", "error")
    assert deployment.run_worker(*options) == 0
    done = deployment.run("dead", "list", "--json", "--limit", str(COUNT + 1))
    return {letter["id"]: letter for letter in json.loads(done.stdout)}


def test_each_of_thousands_is_listed_with_what_happened(dead: dict[str, Any]) -> None:
    assert len(dead) == COUNT
    for letter in dead.values():
        assert letter["task"] == "fault_tasks.fail"
        assert letter["reason"] == "no attempt is left"
        assert letter["error"].endswith("ValueError: always")
        assert "in fail\n" in letter["traceback"]
        assert letter["attempts"] == 1
        assert time.time() - 120 < letter["died_at"] <= time.time()
    died = [letter["died_at"] for letter in dead.values()]
    assert died == sorted(died, reverse=True)


def test_thousands_are_retried_under_their_ids_and_purged(
    deployment: Deployment, dead: dict[str, Any]
) -> None:
    some = list(dead)[:3]
    assert deployment.run("dead", "retry", *some).stdout == "retried 3 dead letters\n"
    assert deployment.counts() == {"waiting": 3, "dead": COUNT - 3}
    assert deployment.run_worker("--burst", "--log-level", "error") == 0
    shown = deployment.run("dead", "show", some[0], "--json")
    assert json.loads(shown.stdout)["attempts"] == 1
    in_python = (
        "from asynctasq import deadletters\n"
        "async def main():\n"
        "    pages = [await deadletters.list_dead(limit=700, offset=o) for o in (0, 700, 1400)]\n"
        "    ids = [letter.id for page in pages for letter in page]\n"
        "    purged = await deadletters.purge(ids=ids[:1000])\n"
        "    retried = await deadletters.retry()\n"
        "    print(len(set(ids)), purged, retried)\n"
        "asyncio.run(main())"
    )
    assert deployment.python(in_python).split() == [str(COUNT), "1000", str(COUNT - 1000)]
    assert deployment.counts() == {"waiting": COUNT - 1000}
    options = ("--burst", "--concurrency", "100", "--log-level", "error")
    assert deployment.run_worker(*options) == 0
    assert {letter.id for letter in deployment.dead_letters()} <= dead.keys()
    assert deployment.run("dead", "purge", "--all").stdout == "deleted 1000 dead letters\n"
    assert deployment.counts() == {}

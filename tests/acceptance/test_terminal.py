"""What somebody at a terminal sees."""

from __future__ import annotations

import codecs
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .conftest import Place, finished

APP = """
import asyncio
from asynctasq import progress, task

@task
async def draw(pages):
    await progress(1, pages, "drawn")
    await asyncio.Event().wait()

@task(max_attempts=2, retry_delay=0)
async def sell(n):
    if n > 1:
        raise LookupError("sold \\x1b[31mout")
"""


class Terminal:
    """The other end of a terminal that a program writes to."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.text = ""

    def until(self, pattern: str, seconds: float = 30) -> None:
        """Read until the text matches; fail if it does not in time."""
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.text):
            ready, _, _ = select.select([self._fd], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{pattern!r} is not in {self.text!r}"
            self.text += self._decoder.decode(os.read(self._fd, 100_000))


@contextmanager
def at_a_terminal(
    place: Place, *arguments: str, **settings: str
) -> Iterator[tuple[subprocess.Popen[bytes], Terminal]]:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "asynctasq", *arguments],
        cwd=place.path,
        env={**place.environment, "TERM": "xterm", "COLUMNS": "120", **settings},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        try:
            yield process, Terminal(ours)
        finally:
            process.kill()
            os.close(ours)


@pytest.fixture
def place(sqlite_place: Place) -> Place:
    sqlite_place.write("app.py", APP)
    return sqlite_place


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_worker_shows_each_task_as_it_ends(place: Place, processes: str) -> None:
    place.python("import app; app.sell(1).dispatch_sync(); app.sell(2).dispatch_sync()")
    with at_a_terminal(place, "worker", "app", "--processes", processes) as (worker, terminal):
        terminal.until(r"\x1b\[32msucceeded.* app\.sell +\d\.\d{3} s")
        terminal.until(r"\x1b\[33mretried.* app\.sell .*LookupError: sold .*\(again in 0 s\)")
        terminal.until(r"\x1b\[31mdead .* app\.sell .*attempt 2 .*LookupError")
        terminal.until(r"Traceback \(most recent call last\)")
        assert "\x1b[31mout" not in terminal.text  # what the application says does not paint
        worker.terminate()
        assert worker.wait(30) == 0


def test_no_colour_where_none_is_wanted(place: Place) -> None:
    place.python("import app; app.sell(1).dispatch_sync()")
    with at_a_terminal(place, "worker", "app", NO_COLOR="1") as (_, terminal):
        terminal.until(r"\d\d:\d\d:\d\d succeeded app\.sell")
        assert "\x1b[" not in terminal.text


def test_a_service_keeps_its_quiet_default(place: Place) -> None:
    place.python("import app; app.sell(1).dispatch_sync()")
    done = place.run("worker", "app", "--burst")
    assert "succeeded" not in done.stdout + done.stderr


def test_status_goes_on_showing_what_changes(place: Place) -> None:
    place.python("import app; app.sell(1).dispatch_sync()")
    with at_a_terminal(place, "status", "--watch", "--every", "0.1") as (status, terminal):
        terminal.until(r"default +1 +0 +0 +0")
        place.python("import app; app.sell(1).dispatch_sync()")
        terminal.until(r"default +2 +0 +0 +0 +\d+ s +\+\d")
        status.send_signal(signal.SIGINT)
        assert status.wait(30) == 0


def test_status_shows_the_calls_that_run_while_it_is_watched(place: Place) -> None:
    place.python("import app; app.draw(40).dispatch_sync()")
    with place.start("worker", "app", "--grace", "0") as worker:
        with at_a_terminal(place, "status", "--watch", "--every", "0.1", "-m", "app") as (_, seen):
            seen.until(r"default +app\.draw +pages=40 +1 +\d+ s ago +1 of 40 drawn")
        worker.terminate()
        worker.wait(30)


def test_the_picture_of_the_watched_status_can_be_made(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.acceptance.pictures", str(tmp_path)]
    root = Path(__file__).parents[2]
    subprocess.run(command, cwd=root, check=True, capture_output=True, timeout=60)
    picture = (tmp_path / "status-watch.svg").read_text()
    shown = (root / "docs" / "images" / "status-watch.svg").read_text()
    for text in ("order=Order#5", "shop.remind", "15&#160;of&#160;40&#160;pages&#160;drawn"):
        assert text in picture
        assert text in shown


def test_status_can_be_watched_by_programs(place: Place) -> None:
    with place.start("status", "--watch", "--json", "--every", "0.1") as status:
        deadline = time.monotonic() + 30
        while len(place.lines("log")) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        status.send_signal(signal.SIGINT)
        assert status.wait(30) == 0
    looks = [json.loads(line) for line in place.lines("log")]
    assert all(look["queues"] == [] for look in looks)


def test_json_of_one_look_names_all_there_is(place: Place) -> None:
    assert set(json.loads(finished(place.run("status", "--json")))) == {
        "broker",
        "queues",
        "workers",
        "outboxes",
        "pauses",
        "not_yet_known",
        "waiting_since",
        "progress",
    }


def test_a_bar_shows_at_a_terminal_alone_how_many_dead_letters_were_moved(place: Place) -> None:
    place.python(
        "import app, asyncio, asynctasq; [app.sell(2).dispatch_sync() for _ in range(5)]; "
        "asyncio.run(asynctasq.Worker(burst=True).run())"
    )
    done = place.run("dead", "purge", "--error", "no such error")
    assert (done.stdout, done.stderr) == ("deleted 0 dead letters\n", "")
    with at_a_terminal(place, "dead", "retry", "--all") as (_, terminal):
        terminal.until(r"retrying.*5/5")
        terminal.until(r"retried 5 dead letters")


def test_a_bar_below_the_tasks_shows_how_far_a_burst_is(place: Place) -> None:
    place.python("import app; [app.sell(1).dispatch_sync() for _ in range(3)]")
    with at_a_terminal(place, "worker", "app", "--burst") as (worker, terminal):
        terminal.until(r"running.*\d/[\d?]")
        terminal.until(r"(?s)(succeeded.* app\.sell .*){3}")
        assert worker.wait(30) == 0

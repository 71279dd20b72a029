"""The command line as a user runs it, on every broker that processes can share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from ..redis_servers import free_port
from .conftest import Place, eventually, finished

JOBS = """
import asyncio
from asynctasq import task

@task
async def hello(name):
    with open("greeted", "a") as file:
        file.write(f"{name}\\n")

@task(queue="mail", max_attempts=1)
async def fail(n):
    raise ValueError(f"broken {n}")

@task
async def wait():
    open("begun", "w").close()
    await asyncio.sleep(60)
"""

one_broker = pytest.mark.parametrize("place", ["sqlite"], indirect=True)


@pytest.fixture(autouse=True)
def jobs(place: Place) -> None:
    place.write("jobs.py", JOBS)


def dispatch(place: Place, calls: str) -> None:
    place.python(
        f"import asyncio, asynctasq\nfrom jobs import *\n"
        f"asyncio.run(asynctasq.dispatch_many({calls}))"
    )


@pytest.mark.parametrize("module", ["jobs", "jobs.py", "./jobs.py"])
@one_broker
def test_a_module_is_named_as_such_or_by_its_path(place: Place, module: str) -> None:
    dispatch(place, "[hello('Ada')]")
    finished(place.run("worker", module, "--burst"))
    assert place.lines("greeted") == ["Ada"]


@pytest.mark.parametrize("way", [("shop/script.py",), ("-m", "shop.script")], ids=" ".join)
@pytest.mark.parametrize("module", ["shop/script.py", "shop.script"])
@one_broker
def test_a_script_in_a_package_has_one_name_however_it_is_run(
    place: Place, way: tuple[str, ...], module: str
) -> None:
    (place.path / "shop").mkdir()
    place.write("shop/__init__.py", "")
    place.write(
        "shop/script.py",
        f"{JOBS}\nif __name__ == '__main__':\n    asyncio.run(hello('Ada').dispatch())\n",
    )
    place.python(f"import subprocess, sys; subprocess.run([sys.executable, *{way}], check=True)")
    finished(place.run("worker", module, "--burst"))
    assert place.lines("greeted") == ["Ada"]


@one_broker
def test_modules_come_from_the_environment_too(place: Place) -> None:
    dispatch(place, "[hello('Ada')]")
    finished(place.run("worker", "--burst", ASYNCTASQ_IMPORTS="jobs"))
    assert place.lines("greeted") == ["Ada"]


@one_broker
@pytest.mark.parametrize("command", [("status",), ("dead", "list"), ("doctor",)], ids=" ".join)
def test_every_command_applies_what_the_imports_configure(
    place: Place, command: tuple[str, ...]
) -> None:
    place.write("configured.py", "import asynctasq\nasynctasq.init(sqlite='elsewhere/queue.db')\n")
    place.run(*command, ASYNCTASQ_IMPORTS="configured")
    assert (place.path / "elsewhere/queue.db").exists()
    assert not (place.path / ".asynctasq").exists()


def test_the_first_line_names_broker_queues_and_concurrency(place: Place) -> None:
    done = place.run("worker", "jobs", "--burst", "--queues", "high, low", "--concurrency", "7")
    first = done.stderr.splitlines()[0]
    assert "queues high, low" in first
    assert "concurrency 7" in first
    if place.settings["ASYNCTASQ_DRIVER"] == "sqlite":
        assert f"sqlite {place.path / '.asynctasq' / 'queue.db'}" in first
    else:
        assert "redis" in first


@one_broker
def test_queues_are_by_default_those_that_tasks_name(place: Place) -> None:
    assert "queues default, mail" in place.run("worker", "jobs", "--burst").stderr


@one_broker
def test_successes_are_logged_only_when_asked_for(place: Place) -> None:
    dispatch(place, "[hello('Ada'), fail(1)]")
    quiet = place.run("worker", "jobs", "--burst").stderr
    assert "succeeded" not in quiet
    assert "task dead" in quiet
    dispatch(place, "[hello('Ada')]")
    assert "task succeeded" in place.run("worker", "jobs", "--burst", "--log-level", "info").stderr


@one_broker
def test_json_logs_are_one_object_per_line(place: Place) -> None:
    dispatch(place, "[hello('Ada'), fail(1)]")
    done = place.run("worker", "jobs", "--burst", "--log-level", "info", "--log-format", "json")
    records = [json.loads(line) for line in done.stderr.splitlines()[1:]]
    outcomes = {r["task"]: r for r in records if r["message"].startswith("task ")}
    assert outcomes["jobs.hello"]["level"] == "info"
    assert outcomes["jobs.fail"]["level"] == "error"
    assert outcomes["jobs.fail"]["error"] == "ValueError: broken 1"
    assert outcomes["jobs.fail"]["queue"] == "mail"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["worker"], 2, "asynctasq worker app.tasks"),
        (["worker", "nowhere"], 1, "no module 'nowhere'"),
        (["worker", "nowhere.py"], 1, "no script"),
        (["worker", "jobs", "--concurrency", "0"], 2, "--concurrency"),
        (["worker", "jobs", "--queues", "{a}"], 2, "not a queue name"),
        (["dead", "retry"], 2, "--all"),
        (["dead", "show", "unknown"], 1, "no dead letter unknown"),
        (["dead", "purge", "unknown"], 1, "no dead letter unknown;"),
        (["dead", "retry", "unknown", "other"], 1, "no dead letter unknown, other;"),
        (["worker", "."], 1, "there is no module '.'"),
        (["worker", "empty"], 2, "no task is registered by empty;"),
    ],
)
@one_broker
def test_mistakes_are_answered_in_one_line(
    place: Place, arguments: list[str], code: int, said: str
) -> None:
    place.write("empty.py", "")
    done = place.run(*arguments)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@one_broker
def test_an_error_in_the_application_is_shown_from_its_own_first_line_on(place: Place) -> None:
    place.write("broken.py", "import jobs\n\nraise ValueError('half written')\n")
    done = place.run("worker", "broken")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "Traceback (most recent call last):",
        f'  File "{place.path}/broken.py", line 3, in <module>',
        "    raise ValueError('half written')",
        "ValueError: half written",
        "Error: cannot import 'broken': ValueError: half written",
    ]


@pytest.mark.parametrize("command", [["status"], ["dead", "list"]])
@one_broker
def test_an_unreachable_broker_is_one_line_and_exit_code_1(
    place: Place, command: list[str]
) -> None:
    done = place.run(
        *command, ASYNCTASQ_DRIVER="redis", ASYNCTASQ_REDIS_URL=f"redis://127.0.0.1:{free_port()}/0"
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr


@one_broker
def test_a_wrong_setting_is_one_line(place: Place) -> None:
    done = place.run("status", ASYNCTASQ_DRIVER="carrier-pigeon")
    assert done.returncode == 1
    assert (
        "driver must be one of memory, postgres, redis, sqlite, not 'carrier-pigeon'" in done.stderr
    )


def test_status_counts_every_state_and_shows_workers(place: Place) -> None:
    dispatch(place, "[hello('Ada').delay(600), fail(1), hello('Grace'), wait()]")
    with place.start("worker", "jobs", "--concurrency", "9") as worker:
        eventually(lambda: place.lines("greeted") and (place.path / "begun").exists())
        eventually(lambda: place.counts("default") == {"delayed": 1, "running": 1})
        eventually(lambda: place.counts("mail") == {"dead": 1})
        (shown,) = place.status()["workers"]
        assert shown["pid"] == worker.pid
        assert shown["concurrency"] == 9
        assert shown["queues"] == ["default", "mail"]
        printed = finished(place.run("status"))
        assert "default" in printed
        assert str(worker.pid) in printed


def test_dead_letters_are_listed_shown_retried_and_purged(place: Place) -> None:
    dispatch(place, "[fail(n) for n in range(3)]")
    finished(place.run("worker", "jobs", "--burst"))
    letters = json.loads(finished(place.run("dead", "list", "--json")))
    assert {letter["error"] for letter in letters} == {f"ValueError: broken {n}" for n in range(3)}
    first, second, third = (letter["id"] for letter in letters)
    assert first in finished(place.run("dead", "list"))

    shown = finished(place.run("dead", "show", first))
    assert "jobs.fail" in shown
    assert 'raise ValueError(f"broken {n}")' in shown

    assert finished(place.run("dead", "retry", first)) == "retried 1 dead letter\n"
    assert place.counts("mail") == {"waiting": 1, "dead": 2}
    assert finished(place.run("dead", "purge", second, "--queue", "mail")).startswith("deleted 1")
    finished(place.run("worker", "jobs", "--burst"))
    left = json.loads(finished(place.run("dead", "list", "--json", "--queue", "mail")))
    assert {letter["id"] for letter in left} == {first, third}
    assert all(letter["attempts"] == 1 for letter in left)
    assert finished(place.run("dead", "purge", "--all")) == "deleted 2 dead letters\n"
    assert finished(place.run("dead", "list")) == "No dead letters.\n"


@one_broker
def test_ids_of_dead_letters_stay_whole_on_a_narrow_terminal(place: Place) -> None:
    dispatch(place, "[fail(1), fail(2)]")
    finished(place.run("worker", "jobs", "--burst"))
    (first, second) = json.loads(finished(place.run("dead", "list", "--json")))
    printed = on_terminal(place, 80, "dead", "list")
    assert max(map(len, printed.splitlines())) <= 80
    assert first["id"] in printed
    assert second["id"] in printed


def on_terminal(place: Place, columns: int, *arguments: str) -> str:
    """What `asynctasq` prints on a terminal of this width."""
    ours, its = os.openpty()
    command = [sys.executable, "-m", "asynctasq", *arguments]
    env = place.environment | {"COLUMNS": str(columns), "TERM": "dumb"}
    with subprocess.Popen(command, cwd=place.path, env=env, stdout=its):
        os.close(its)
        printed = b""
        with suppress(OSError), open(ours, "rb", buffering=0) as file:  # EIO ends a terminal
            while more := file.read(4096):
                printed += more
    return printed.decode()


@one_broker
def test_an_id_that_is_none_among_others_is_counted(place: Place) -> None:
    dispatch(place, "[fail(1)]")
    finished(place.run("worker", "jobs", "--burst"))
    (letter,) = json.loads(finished(place.run("dead", "list", "--json")))
    done = place.run("dead", "purge", letter["id"], "unknown")
    assert done.returncode == 1
    assert "Error: 1 of the ids is no dead letter;" in done.stderr


def test_thousands_of_dead_letters_are_retried_at_once(place: Place) -> None:
    dispatch(place, "[fail(n) for n in range(3000)]")
    finished(place.run("worker", "jobs", "--burst", "--log-level", "error", "--concurrency", "200"))
    assert place.counts("mail") == {"dead": 3000}
    page = json.loads(
        finished(place.run("dead", "list", "--json", "--limit", "5", "--offset", "2998"))
    )
    assert len(page) == 2
    assert finished(place.run("dead", "retry", "--all")) == "retried 3000 dead letters\n"
    assert place.counts("mail") == {"waiting": 3000}


def test_doctor_finds_the_broker_well(place: Place) -> None:
    done = place.run("doctor", "--json")
    findings = json.loads(done.stdout)
    assert done.returncode == 0, findings
    assert place.settings["ASYNCTASQ_DRIVER"] in {f["subject"].split()[0] for f in findings}


@one_broker
def test_doctor_exits_with_1_when_the_broker_is_away(place: Place) -> None:
    done = place.run(
        "doctor",
        ASYNCTASQ_DRIVER="redis",
        ASYNCTASQ_REDIS_URL=f"redis://:secret@127.0.0.1:{free_port()}/0",
    )
    assert done.returncode == 1
    assert "ERROR" in done.stdout
    assert "secret" not in done.stdout + done.stderr


@one_broker
def test_doctor_and_status_use_what_the_application_configures(place: Place) -> None:
    place.write("settings.py", "import asynctasq\nasynctasq.init(sqlite='elsewhere.db')\n")
    assert "elsewhere.db" in finished(place.run("status", "-m", "settings"))
    assert "elsewhere.db" in finished(place.run("doctor", "--module", "settings"))


@one_broker
def test_plugins_shows_each_adapter_and_why_one_is_broken(place: Place) -> None:
    install_fake(
        place.path, "asynctasq_broken", "1.2", "[asynctasq]\nbroken = nowhere_to_be_found\n"
    )
    done = place.run("plugins", "--json")
    assert done.returncode == 1
    listed = json.loads(done.stdout)
    states = {p["name"]: (p["distribution"], p["state"]) for p in listed}
    assert states["sqlalchemy"] == ("asynctasq-sqlalchemy", "loaded")
    (broken,) = (p for p in listed if p["name"] == "broken")
    assert (broken["version"], broken["state"]) == ("1.2", "failed")
    assert "nowhere_to_be_found" in broken["reason"]
    printed = place.run("plugins").stdout
    assert "nowhere_to_be_found" in printed
    assert "asynctasq-sqlalchemy" in printed


@one_broker
def test_plugins_and_doctor_notice_a_foreign_distribution(place: Place) -> None:
    install_fake(place.path, "asynctasq", "1.7.0")
    assert "asynctasq 1.7.0 is another project" in place.run("plugins").stderr
    done = place.run("doctor")
    assert done.returncode == 1
    assert "asynctasq 1.7.0 is another project" in done.stdout


@one_broker
def test_asynctasq_plugins_chooses_which_adapters_load(place: Place) -> None:
    listed = json.loads(finished(place.run("plugins", "--json", ASYNCTASQ_PLUGINS="django")))
    loaded = {p["name"] for p in listed if (p["kind"], p["state"]) == ("adapter", "loaded")}
    assert loaded == {"django"}
    assert all(p["reason"] for p in listed if p["state"] == "blocked")


@one_broker
def test_an_option_of_a_blocked_adapter_says_so(place: Place) -> None:
    place.write("configured.py", "import asynctasq\nasynctasq.init(tortoise_config={})\n")
    done = place.run("worker", "configured", ASYNCTASQ_PLUGINS="sqlalchemy")
    assert done.returncode == 1
    assert "asynctasq-tortoise, which is blocked: not in ASYNCTASQ_PLUGINS" in done.stderr


@one_broker
def test_a_broker_named_at_its_default_address_is_used(place: Place) -> None:
    place.write(
        "settings.py",
        "INSTALLED_APPS = ['asynctasq_django']\n"
        "ASYNCTASQ = {'redis': {'url': 'redis://localhost:6379/0'}}\n",
    )
    code = "import django, asynctasq; django.setup(); print(asynctasq.app.current().config.driver)"
    place.settings = {"DJANGO_SETTINGS_MODULE": "settings"}
    assert place.python(code) == "redis\n"
    code = "import asynctasq; print(asynctasq.init().driver)"
    place.settings = {"ASYNCTASQ_REDIS_URL": "redis://localhost:6379/0"}
    assert place.python(code) == "redis\n"


def install_fake(folder: Path, name: str, version: str, entry_points: str = "") -> None:
    """Make a distribution appear installed: the working directory comes first on the path."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(entry_points)


SCHEDULED = """
from datetime import timedelta
from asynctasq import task

@task(every=timedelta(milliseconds=300), catch_up="all")
async def tick():
    with open("ticks", "a") as file:
        file.write("tick\\n")
"""


@one_broker
def test_schedules_are_listed_run_paused_and_resumed(place: Place) -> None:
    place.write("plan.py", SCHEDULED)
    with place.start("worker", "plan"):
        eventually(lambda: len(place.lines("ticks")) >= 3)
        listed = finished(place.run("schedule", "list", "-m", "plan", "--json"))
        (one,) = json.loads(listed)
        assert (one["name"], one["timetable"]) == ("plan.tick", "every 0:00:00.300000")
        assert "in code" in finished(place.run("schedule", "list", "-m", "plan"))
        ticks = finished(place.run("schedule", "next", "plan.tick", "-n", "3"))
        assert len(ticks.splitlines()) == 3
        finished(place.run("schedule", "pause", "plan.tick"))
        assert "paused" in finished(place.run("schedule", "list"))
        finished(place.run("schedule", "resume", "plan.tick"))
        before = len(place.lines("ticks"))
        eventually(lambda: len(place.lines("ticks")) > before)
    finished(place.run("schedule", "pause", "plan.tick"))
    before = len(place.lines("ticks"))
    assert len(finished(place.run("schedule", "run", "plan.tick")).strip()) == 32
    finished(place.run("worker", "plan", "--burst"))
    assert len(place.lines("ticks")) > before
    assert "no schedule 'other'" in place.run("schedule", "run", "other").stderr


@pytest.mark.parametrize("kind", ["wait", "spin"])
@one_broker
def test_cancel_ends_what_runs_and_removes_what_waits(place: Place, kind: str) -> None:
    place.write(
        "long.py",
        JOBS + "import subprocess\n"
        "@task(process=True)\n"
        "def spin():\n"
        "    child = subprocess.Popen(['sleep', '60'])\n"
        "    open('child', 'w').write(str(child.pid))\n"
        "    open('begun', 'w').close()\n"
        "    child.wait()\n",
    )
    dispatched = (
        "import asyncio\nfrom long import *\n"
        "handle = {}().dispatch_sync()\nprint(handle.id, handle.status_sync())"
    )
    running = place.python(dispatched.format(kind)).split()[0]
    with place.start("worker", "long"):
        eventually((place.path / "begun").exists)
        assert "cancelled 1" in finished(place.run("cancel", running))
        eventually(lambda: place.counts() == {})
        if kind == "spin":
            child = int((place.path / "child").read_text())
            eventually(lambda: not psutil.pid_exists(child))
    waiting = place.python(dispatched.format("wait")).split()[0]
    done = place.run("cancel", waiting, running)
    assert (done.returncode, done.stdout.strip()) == (1, "cancelled 1")
    assert f"neither waiting nor running: {running}" in done.stderr
    assert place.counts() == {}


def test_a_pause_holds_for_running_workers_and_over_restarts(place: Place) -> None:
    dispatch(place, "[hello('Ada')]")
    with place.start("worker", "jobs") as worker:
        eventually(lambda: place.lines("greeted") == ["Ada"])
        finished(place.run("pause", "-m", "jobs", "--task", "jobs.hello", "--by", "ops"))
        dispatch(place, "[hello('Grace'), fail(1)]")
        eventually(lambda: place.counts("mail") == {"dead": 1})
        worker.kill()
    finished(place.run("pause", "--queue", "mail"))
    dispatch(place, "[fail(2)]")
    paused = [(p["queue"], p["task"], p["by"]) for p in place.status()["pauses"]]
    assert paused[0] == ("default", "jobs.hello", "ops")
    assert paused[1] == ("mail", "", paused[1][2])
    with place.start("worker", "jobs"):
        dispatch(place, "[hello('Alan')]")
        eventually(lambda: place.counts("default") == {"delayed": 2})
        assert place.counts("mail") == {"waiting": 1, "dead": 1}
        assert place.lines("greeted") == ["Ada"]
        finished(place.run("resume", "-m", "jobs", "-t", "jobs.hello"))
        finished(place.run("resume", "--queue", "mail"))
        eventually(lambda: sorted(place.lines("greeted")) == ["Ada", "Alan", "Grace"])
        eventually(lambda: place.counts("mail") == {"dead": 2})

"""A Django project from outside: settings, checks, `manage.py` and the worker's start."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import asynctasq
import django
import pytest
from asynctasq_django import adapter
from asynctasq_django.apps import AsynctasqConfig
from asynctasq_django.checks import check_settings, check_tasks
from asynctasq_django.settings import configure
from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import override_settings
from djshop.models import User
from djshop.tasks import rename, rename_in_process, rename_in_thread

from .conftest import Run

PROJECT = Path(__file__).parent / "project"


def test_manage_py_runs_a_worker_that_finds_the_tasks_of_the_apps(db: str, run: Run) -> None:
    made = User.objects.bulk_create(User(email=str(i)) for i in range(3))
    for user, task in zip(made, (rename, rename_in_thread, rename_in_process), strict=True):
        task(user, name=task.name).dispatch_sync()
    done = run("manage.py", "asynctasq", "worker", "--burst")
    assert done.returncode == 0, done.stderr
    names = {f"djshop.tasks.rename{suffix}" for suffix in ("", "_in_thread", "_in_process")}
    assert set(User.objects.values_list("name", flat=True)) == names


def test_the_command_asynctasq_sets_django_up_from_the_environment(db: str, run: Run) -> None:
    user = User.objects.create(email="a@example.com")
    rename(user, "renamed").dispatch_sync()
    done = run("-m", "asynctasq", "worker", "djshop.tasks", "--burst")
    assert done.returncode == 0, done.stderr
    user.refresh_from_db()
    assert user.name == "renamed"


def test_a_worker_without_settings_says_which_variable_to_set(run: Run) -> None:
    done = run("-m", "asynctasq", "worker", "djshop.tasks", "--burst", DJANGO_SETTINGS_MODULE="")
    assert done.returncode == 1
    assert "set the environment variable DJANGO_SETTINGS_MODULE" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_with_settings_that_do_not_exist_names_them(run: Run) -> None:
    done = run("-m", "asynctasq", "worker", "--burst", DJANGO_SETTINGS_MODULE="nowhere.settings")
    assert done.returncode == 1
    assert "DJANGO_SETTINGS_MODULE is 'nowhere.settings'" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_django_in_use_a_worker_does_not_import_it(run: Run) -> None:
    code = (
        "import sys, asynctasq; asynctasq.init(driver='memory');"
        "from asynctasq_django import adapter; assert list(adapter.prepare()) == [];"
        "assert not adapter.is_model(object()); assert adapter.task_scope() is None;"
        "assert adapter.thread_scope() is None; assert not adapter.owns_transaction('default');"
        "assert adapter.open_transaction() is None;"
        "assert adapter.explain_import(OSError()) is None;"
        "print([m for m in sys.modules if m.partition('.')[0] in ('django', 'asgiref')])"
    )
    done = run("-c", code, DJANGO_SETTINGS_MODULE="")
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_manage_py_passes_subcommands_and_options_on(db: str, run: Run) -> None:
    assert "--concurrency" in run("manage.py", "asynctasq", "worker", "--help").stdout
    assert "asynctasq-django" in run("manage.py", "asynctasq", "plugins").stdout
    status = run("manage.py", "asynctasq", "status", "--json")
    assert json.loads(status.stdout)["queues"] == []
    assert run("manage.py", "asynctasq", "nonsense").returncode == 2


@pytest.fixture
def elsewhere(tmp_path: Path) -> str:
    """A folder with settings of its own, which differ in the place of the queue."""
    (tmp_path / "other_settings.py").write_text(
        "from djsettings import *\n"
        f"ASYNCTASQ = {{'driver': 'sqlite', 'sqlite': {str(tmp_path / 'elsewhere.db')!r}}}\n"
    )
    return str(tmp_path)


@pytest.mark.parametrize("is_before", [True, False])
def test_manage_py_takes_the_options_of_django_before_and_after_the_subcommand(
    db: str, run: Run, elsewhere: str, is_before: bool
) -> None:
    def asynctasq_with(*options: str, subcommand: tuple[str, ...] = ("status", "--json")) -> Any:
        parts = (options, subcommand) if is_before else (subcommand, options)
        return run("manage.py", "asynctasq", *parts[0], *parts[1])

    rename(User.objects.create(email="a@example.com"), "renamed").dispatch_sync()
    usual = asynctasq_with("-v", "2", "--traceback", "--no-color", "--skip-checks")
    assert [queue["name"] for queue in json.loads(usual.stdout)["queues"]] == ["default"]
    other = asynctasq_with("--settings=other_settings", "--pythonpath", elsewhere, "--force-color")
    assert json.loads(other.stdout)["queues"] == [], other.stderr
    both = asynctasq_with("--no-color", "--force-color")
    assert (both.returncode, "can't be used together" in both.stderr) == (1, True)
    assert asynctasq_with("-v", "7").returncode == 2
    worker = ("worker", "--burst", "--processes", "2")
    done = asynctasq_with(
        "--settings", "other_settings", f"--pythonpath={elsewhere}", subcommand=worker
    )
    assert (done.returncode, "elsewhere.db" in done.stderr) == (0, True), done.stderr


def test_manage_py_can_be_started_in_another_folder(db: str, run: Run, tmp_path: Path) -> None:
    user = User.objects.create(email="a@example.com")
    rename_in_thread(user, "renamed").dispatch_sync()
    code = (
        "import os, runpy, sys; manage = os.path.abspath('manage.py');"
        f"os.chdir({str(tmp_path)!r}); os.execv(sys.executable, [sys.executable, manage, "
        "'asynctasq', 'worker', '--burst', '--processes', '2'])"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    user.refresh_from_db()
    assert user.name == "renamed"


def test_verbosity_is_the_level_of_a_workers_log(db: str, run: Run) -> None:
    user = User.objects.create(email="a@example.com")
    for options, is_logged in (("-v0",), False), (("-v", "2"), True):
        rename(user, "renamed").dispatch_sync()
        done = run("manage.py", "asynctasq", "worker", "--burst", *options)
        assert ("task succeeded" in done.stderr) is is_logged


def test_traceback_shows_where_an_error_comes_from(run: Run) -> None:
    short = run("manage.py", "asynctasq", "worker", "no.such.module")
    long = run("manage.py", "asynctasq", "worker", "no.such.module", "--traceback")
    assert (short.returncode, long.returncode) == (1, 1)
    assert "Traceback" not in short.stderr
    assert "Traceback" in long.stderr
    assert "asynctasq.errors.ConfigurationError: " in long.stderr


def test_doctor_looks_at_every_database(db: str, run: Run) -> None:
    databases = json.loads(os.environ["DJSHOP_DATABASES"])
    databases["other"]["PORT"] = "1"
    databases["maria"] |= {"CONN_MAX_AGE": 60, "ATOMIC_REQUESTS": True}
    if has_pools := django.VERSION >= (5, 1):
        databases["default"]["OPTIONS"] = {"pool": True}
    done = run("manage.py", "asynctasq", "doctor", DJSHOP_DATABASES=json.dumps(databases))
    text = " ".join(done.stdout.split())
    assert "'default': PostgreSQL answers" in text
    assert ("a pool of 4 connections" in text) is has_pools
    assert "'other': no answer: OperationalError" in text
    assert "CONN_HEALTH_CHECKS" in text
    assert "ATOMIC_REQUESTS" in text
    assert "SQLite lets one process write at a time" in text
    assert done.returncode == 1


async def test_check_reports_reachable_databases(db: str) -> None:
    findings = {(f.subject, f.level) for f in await adapter.check()}
    assert ("django database 'default'", "ok") in findings
    assert ("django database 'default'", "warning") in findings  # CONN_MAX_AGE is 0


@pytest.mark.parametrize(
    ("options", "identifier"),
    [
        ({"drivr": "redis"}, "asynctasq.E002"),
        ({"redis": {"ulr": "redis://"}}, "asynctasq.E002"),
        ({"task_defaults": {"retries": 3}}, "asynctasq.E002"),
        ("redis://", "asynctasq.E001"),
        (None, "asynctasq.E001"),
        ({"redis": "http://localhost"}, "asynctasq.E002"),
        ({"sqlite": ":memory:"}, "asynctasq.E002"),
        ({"sqlite": f"{__file__}/queue.db"}, "asynctasq.E003"),
        ({"sqlite": str(PROJECT)}, "asynctasq.E003"),
        ({"redis": {"url": "rediss://h", "ssl_ca_certs": "/nowhere.pem"}}, "asynctasq.E002"),
        ({"driver": "memory"}, "asynctasq.W001"),
    ],
)
def test_system_checks_name_what_is_wrong_with_the_settings(
    options: Any, identifier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "ASYNCTASQ", options)
    assert [message.id for message in check_settings(None)] == [identifier]


@pytest.mark.parametrize(
    "broker", [{"redis": {"url": "redis://localhost"}}, {"sqlite": "new/q.db"}]
)
def test_good_settings_pass_the_system_checks(
    broker: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "ASYNCTASQ", broker)
    assert check_settings(None) == []


def test_settings_that_are_left_out_are_those_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(settings, "ASYNCTASQ")
    monkeypatch.setenv("ASYNCTASQ_REDIS_URL", "http://localhost")
    assert [message.id for message in check_settings(None)] == ["asynctasq.E002"]


@pytest.mark.parametrize("options", [None, "redis://"])
def test_settings_that_are_no_dictionary_are_refused_with_what_to_write(options: Any) -> None:
    with (
        pytest.raises(ImproperlyConfigured, match=r"must be a dictionary .* leave it out"),
        override_settings(ASYNCTASQ=options),
    ):
        configure(settings)


def backend(**params: Any) -> dict[str, dict[str, Any]]:
    return {"default": {"BACKEND": "asynctasq_django.tasks_backend.AsynctasqBackend", **params}}


@pytest.mark.parametrize(
    ("tasks", "problem"),
    [
        (backend(QUEUES=["mail", "a b"]), "queue must be"),
        (backend(OPTIONS={"max_atempts": 3}), "did you mean 'max_attempts'"),
        (backend(OPTIONS={"max_attempts": 0}), "max_attempts must be"),
    ],
)
def test_system_checks_name_what_a_backend_of_django_tasks_would_refuse(
    tasks: Any, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("asynctasq_django.tasks_backend", exc_type=ImportError)
    monkeypatch.setattr(settings, "TASKS", tasks)
    (message,) = check_tasks(None)
    assert message.id == "asynctasq.E004"
    assert "TASKS['default']" in message.msg
    assert problem in message.msg


@pytest.mark.parametrize(
    "tasks",
    [
        backend(QUEUES=[], OPTIONS={"max_attempts": 3}),
        {"default": {"BACKEND": "nowhere.Backend", "QUEUES": ["a b"]}},
        {},
    ],
)
def test_other_backends_of_django_tasks_are_not_checked(
    tasks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "TASKS", tasks)
    assert check_tasks(None) == []


def test_wrong_settings_stop_the_start_and_name_the_nearest_key() -> None:
    with (
        pytest.raises(ImproperlyConfigured, match=r"ASYNCTASQ: .*did you mean 'driver'"),
        override_settings(ASYNCTASQ={"drivr": "redis"}),
    ):
        configure(settings)


def test_overridden_settings_of_a_test_take_effect(queue: dict[str, Any]) -> None:
    with override_settings(ASYNCTASQ={"driver": "memory", "max_deliveries": 9}):
        assert asynctasq.app.current().config.max_deliveries == 9


def test_starting_the_app_opens_nothing_and_starts_no_thread(queue: dict[str, Any]) -> None:
    before = threading.active_count()
    config = apps.get_app_config("asynctasq_django")
    assert isinstance(config, AsynctasqConfig)
    connection.close()
    config.ready()
    config.ready()
    assert threading.active_count() == before
    assert connection.connection is None


def test_a_worker_finds_the_table_between_two_models(run: Run) -> None:
    code = (
        "from asynctasq import Ref; from asynctasq_django import adapter;"
        "print(list(adapter.prepare()), Ref('djshop.models.User_friends', 1).model_class())"
    )
    assert run("-c", code).stdout.strip() == (
        "['djshop.tasks'] <class 'djshop.models.User_friends'>"
    )


def test_call_command_runs_a_subcommand(queue: dict[str, Any], capfd: Any) -> None:
    call_command("asynctasq", "plugins")
    assert "asynctasq-django" in capfd.readouterr().out
    call_command("asynctasq", "plugins", verbosity=2, no_color=True)
    call_command("asynctasq", "plugins", "--traceback", "-v", "2")
    with pytest.raises(CommandError, match="exited with 2"):
        call_command("asynctasq", "nonsense")


def test_settings_apply_in_a_worker_without_the_app_installed(run: Run) -> None:
    code = (
        "import djsettings; djsettings.INSTALLED_APPS = ['djshop'];"
        "import asynctasq; from asynctasq_django import adapter;"
        "adapter.prepare(); print(asynctasq.app.current().config.driver);"
        "asynctasq.init(driver='memory'); adapter.prepare();"
        "print(asynctasq.app.current().config.driver)"
    )
    done = run("-c", code)
    assert done.stdout.split() == ["sqlite", "memory"], done.stderr

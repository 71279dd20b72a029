"""The application's configuration of logging wins over what the command line does by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from djshop.tasks import fail

from .conftest import Run

COMMANDS = [("manage.py", "asynctasq"), ("-m", "asynctasq")]


def config(level: str, **more: Any) -> dict[str, Any]:
    """As an application writes it: one handler, for all records."""
    return {
        "version": 1,
        "formatters": {"own": {"format": "OWN %(levelname)s %(message)s"}},
        "handlers": {"own": {"class": "logging.StreamHandler", "formatter": "own"}},
        "root": {"handlers": ["own"], "level": level},
        **more,
    }


def logged(run: Run, command: tuple[str, ...], *options: str, **environment: str) -> list[str]:
    """What a worker writes about a task that fails, but for its first line and the traceback."""
    fail().dispatch_sync()
    done = run(*command, "worker", "--burst", *options, **environment)
    assert done.returncode == 0, done.stderr
    words = ("task dead", "of the application")
    return [line for line in done.stderr.splitlines() if any(word in line for word in words)]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("keeps", [True, False])
def test_settings_logging_wins_and_does_not_silence_a_worker(
    db: str, run: Run, command: tuple[str, ...], keeps: bool
) -> None:
    for level, seen in (
        ("INFO", ["OWN INFO of the application", "OWN ERROR task dead"]),
        ("ERROR", ["OWN ERROR task dead"]),
    ):
        logging = config(level, disable_existing_loggers=not keeps)
        assert logged(run, command, DJSHOP_LOGGING=json.dumps(logging)) == seen


@pytest.mark.parametrize("command", COMMANDS)
def test_the_level_of_the_command_line_is_that_of_asynctasq_alone(
    db: str, run: Run, command: tuple[str, ...]
) -> None:
    options = ("--log-level", "debug")
    quiet = json.dumps(config("WARNING"))
    assert logged(run, command, *options, DJSHOP_LOGGING=quiet) == ["OWN ERROR task dead"]
    own = json.dumps(config("WARNING", loggers={"asynctasq": {"level": "CRITICAL"}}))
    assert logged(run, command, *options, DJSHOP_LOGGING=own) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_handler_of_one_logger_does_not_take_the_others(
    db: str, run: Run, command: tuple[str, ...]
) -> None:
    logging = config("WARNING", loggers={"djshop": {"handlers": ["own"], "level": "INFO"}})
    del logging["root"]
    application, dead = logged(run, command, DJSHOP_LOGGING=json.dumps(logging))
    assert application == "OWN INFO of the application"
    assert "ERROR asynctasq" in dead


def test_a_dict_config_of_the_applications_modules_wins_too(
    db: str, run: Run, tmp_path: Path
) -> None:
    module = tmp_path / "own_logging.py"
    module.write_text(f"import logging.config\nlogging.config.dictConfig({config('INFO')})\n")
    for command in COMMANDS:
        seen = logged(run, (*command,), str(module))
        assert seen == ["OWN INFO of the application", "OWN ERROR task dead"]


@pytest.mark.parametrize("command", COMMANDS)
def test_without_a_configuration_the_worker_writes_itself(
    db: str, run: Run, command: tuple[str, ...]
) -> None:
    (dead,) = logged(run, command)
    assert "ERROR asynctasq" in dead
    application, dead = logged(run, command, "--log-level", "info")
    assert "INFO djshop.tasks: of the application" in application
    assert "ERROR asynctasq" in dead


def test_settings_logging_does_not_silence_what_was_imported_before_it(run: Run) -> None:
    code = (
        "import logging, asynctasq.worker, django; django.setup();"
        "print([n for n, l in logging.root.manager.loggerDict.items()"
        " if n.startswith('asynctasq') and isinstance(l, logging.Logger) and l.disabled])"
    )
    done = run("-c", code, DJSHOP_LOGGING=json.dumps(config("INFO")))
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr

"""Log records as the command line prints them."""

from __future__ import annotations

import json
import logging
from typing import Any

from asynctasq.cli.log_lines import JsonLines, KeyValueLines


def record(message: str = "task dead", raised: BaseException | None = None, **extra: Any) -> Any:
    made = logging.LogRecord(
        "asynctasq.worker",
        logging.ERROR,
        "file.py",
        1,
        message,
        (),
        (type(raised), raised, None) if raised else None,
    )
    vars(made).update(extra)
    return made


def test_text_puts_fields_behind_the_message() -> None:
    line = KeyValueLines().format(record(task="app.send", seconds=0.25, attempt=2))
    assert line.endswith("ERROR asynctasq.worker: task dead task=app.send seconds=0.25 attempt=2")
    assert line[:4].isdigit()
    assert line.split()[0].endswith("Z")


def test_text_quotes_values_that_are_not_one_word() -> None:
    line = KeyValueLines().format(record(error='no "row"\nhere', empty="", left=None))
    assert line.endswith(r'error="no \"row\"\nhere" empty=""')


def test_json_is_one_line_with_the_same_fields() -> None:
    line = JsonLines().format(record(task="app.send", seconds=0.25, where={1}))
    assert "\n" not in line
    fields = json.loads(line)
    assert fields["message"] == "task dead"
    assert fields["level"] == "error"
    assert fields["logger"] == "asynctasq.worker"
    assert (fields["task"], fields["seconds"], fields["where"]) == ("app.send", 0.25, "{1}")


def test_tracebacks_are_kept() -> None:
    failed = record(raised=ValueError("broken"))
    assert KeyValueLines().format(failed).endswith("\nValueError: broken")
    assert json.loads(JsonLines().format(failed))["traceback"] == "ValueError: broken"

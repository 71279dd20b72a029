"""Which errors that escape a task say that the database is away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from asynctasq_django.adapter import is_outage
from django.db import IntegrityError, OperationalError
from django.db.backends.sqlite3.base import DatabaseWrapper


def connection_to(path: Path) -> Any:
    settings = {"NAME": str(path), "OPTIONS": {}, "CONN_MAX_AGE": 0, "AUTOCOMMIT": True}
    return DatabaseWrapper({**settings, "TIME_ZONE": None, "CONN_HEALTH_CHECKS": False})


def test_a_file_that_cannot_be_opened_is_an_outage(tmp_path: Path) -> None:
    with pytest.raises(OperationalError) as e:
        connection_to(tmp_path / "none" / "x.db").ensure_connection()
    assert is_outage(e.value)


def test_a_mistake_in_the_statement_is_none(tmp_path: Path) -> None:
    connection = connection_to(tmp_path / "x.db")
    with pytest.raises(OperationalError) as e, connection.cursor() as cursor:
        cursor.execute("SELECT * FROM nothing")
    connection.close()
    assert not is_outage(e.value)


def test_errors_of_other_kinds_and_other_code_are_none() -> None:
    for error in (IntegrityError(), OSError(), ConnectionError(), ValueError()):
        assert not is_outage(error)

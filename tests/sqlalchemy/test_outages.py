"""Which errors that escape a task say that the database is away."""

from __future__ import annotations

from pathlib import Path

import pytest
from asynctasq_sqlalchemy.adapter import is_outage
from sqlalchemy import create_engine, exc, text

from ..servers import postgres_url


def test_a_file_that_cannot_be_opened_is_an_outage(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/none/x.db")
    with pytest.raises(exc.OperationalError) as e:
        engine.connect()
    assert is_outage(e.value)


def test_a_mistake_in_the_statement_is_none() -> None:
    engine = create_engine("sqlite://")
    with pytest.raises(exc.OperationalError) as e, engine.connect() as connection:
        connection.execute(text("SELECT * FROM nothing"))
    assert not is_outage(e.value)
    engine.dispose()


def test_a_connection_that_the_server_ends_is_an_outage() -> None:
    engine = create_engine(postgres_url().replace("postgresql:", "postgresql+psycopg:", 1))
    with pytest.raises(exc.OperationalError) as e, engine.connect() as connection:
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert is_outage(e.value)
    engine.dispose()


def test_errors_of_other_code_are_none() -> None:
    for error in (OSError(), ConnectionError(), TimeoutError(), ValueError()):
        assert not is_outage(error)

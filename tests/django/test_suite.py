"""The conformance suite of adapters, whole on PostgreSQL, and `parts` of it on the others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from asynctasq.testing.adapters.commits import CommitsTests
from asynctasq.testing.adapters.fetching import FetchingTests
from asynctasq.testing.adapters.loading import LoadingTests
from asynctasq.testing.adapters.missing import MissingTests
from asynctasq_django import select_for_update, suite
from asynctasq_django.lanes import close_lanes
from django.db import connection, connections


class TestPostgreSQL(suite.TestDjango):
    """With locks, and a server that counts connections."""

    locking = counts_connections = True
    away = {"PORT": "1"}

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, _databases: Callable[[str], None]) -> None:
        _databases("default")
        _databases("other")

    def lock(self) -> Sequence[Any]:
        return [select_for_update()]

    def connections(self) -> int:
        """Once those that were closed have gone, which takes the server a moment."""
        deadline = time.monotonic() + 5
        while (count := self._count()) > 1 and time.monotonic() < deadline:
            time.sleep(0.02)
        return count

    def _count(self) -> int:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            )
            return int(cursor.fetchone()[0])


class _StandIn(suite.TestDjango):
    """On another of the project's databases under the alias `default`."""

    alias = ""

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, _databases: Callable[[str], None]) -> Iterator[None]:
        _databases("other")
        _databases(cls.alias)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(connections.settings, "default", connections.settings[cls.alias])
            _forget_connection()
            yield
        _forget_connection()


def _forget_connection() -> None:
    asyncio.run(close_lanes())  # those of the test before may still know the other database
    connections["default"].close()
    del connections["default"]


class TestMariaDB(_StandIn):
    """With locks."""

    parts = (FetchingTests, MissingTests, CommitsTests, LoadingTests)
    alias = "maria"
    locking = True
    away = {"PORT": "1"}

    def lock(self) -> Sequence[Any]:
        return [select_for_update()]


class TestSQLite(_StandIn):
    """As the suite runs by itself."""

    parts = (FetchingTests, MissingTests, CommitsTests)
    alias = "lite"

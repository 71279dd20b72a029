"""Django on psycopg 3."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import asynctasq
import django
from asgiref.sync import sync_to_async
from django.conf import settings

from bench.orms import meter

DISTRIBUTIONS = ("asynctasq-django", "django", "psycopg")
queries = 0


def _configure(url: str) -> None:
    parts = urlsplit(url)
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path[1:],
        "USER": parts.username,
        "HOST": parts.hostname,
        "PORT": parts.port or 5432,
        "CONN_MAX_AGE": 60,
    }
    settings.configure(DATABASES={"default": database}, INSTALLED_APPS=[], USE_TZ=True)
    django.setup()


async def connect(url: str) -> None:
    """Configure the ORM."""
    _configure(url)
    _define()
    _count_queries()


async def make_rows(n: int) -> list[Any]:
    """Make the table and `n` rows."""
    return await sync_to_async(_make_rows)(n)


def _define() -> None:
    from django.db import models

    class User(models.Model):
        email = models.EmailField()
        name = models.CharField(max_length=100)

        class Meta:
            app_label = "bench"

    async def one(user: User) -> None:
        assert user.email
        meter.tick()

    async def many(users: list[User]) -> None:
        meter.tick()

    globals()["User"] = User
    globals()["one"] = asynctasq.task(one)
    globals()["many"] = asynctasq.task(many)


def _make_rows(n: int) -> list[Any]:
    from django.db import connection

    user = globals()["User"]
    with connection.schema_editor() as editor:
        editor.create_model(user)
    user.objects.bulk_create(user(email=f"user{i}@example.com", name=f"User {i}") for i in range(n))
    return list(user.objects.order_by("id"))


def _count_queries() -> None:
    from django.db.backends.utils import CursorWrapper

    execute = CursorWrapper.execute

    def counted(self: Any, sql: Any, params: Any = None) -> Any:
        global queries
        queries += 1
        return execute(self, sql, params)

    CursorWrapper.execute = counted


async def fetch(keys: list[int]) -> list[Any]:
    """The rows of these keys, in order."""
    by_key = await globals()["User"].objects.ain_bulk(keys)
    return [by_key[key] for key in keys]


async def get(key: int) -> Any:
    """One row."""
    return await globals()["User"].objects.aget(pk=key)


async def close() -> None:
    """Close the connections."""
    from django.db import connections

    await sync_to_async(connections.close_all)()

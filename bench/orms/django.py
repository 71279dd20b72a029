"""Django on psycopg 3."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import asynctasq
import django
from asgiref.sync import sync_to_async
from django.conf import settings

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


async def open_rows(url: str, n: int) -> list[Any]:
    """Make `n` rows and return them."""
    _configure(url)
    _define()
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

    async def many(users: list[User]) -> int:
        return len(users)

    globals()["User"] = User
    globals()["one"] = asynctasq.task(one)
    globals()["many"] = asynctasq.task(result_ttl=60)(many)


def _make_rows(n: int) -> list[Any]:
    from django.db import connection
    from django.db.backends.utils import CursorWrapper

    user = globals()["User"]
    with connection.schema_editor() as editor:
        editor.create_model(user)
    user.objects.bulk_create(user(email=f"user{i}@example.com", name=f"User {i}") for i in range(n))
    execute = CursorWrapper.execute

    def counted(self: Any, sql: Any, params: Any = None) -> Any:
        global queries
        queries += 1
        return execute(self, sql, params)

    CursorWrapper.execute = counted
    return list(user.objects.order_by("id"))


async def by_hand(keys: list[int]) -> None:
    """What a careful programmer writes to fetch these rows."""
    by_key = await globals()["User"].objects.ain_bulk(keys)
    assert len([by_key[key] for key in keys]) == len(keys)


async def close() -> None:
    """Close the connections."""
    from django.db import connections

    await sync_to_async(connections.close_all)()

"""The same as `djshop_site`, with its rows and its queues in PostgreSQL."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from asgiref.sync import sync_to_async
from django.conf import settings

_place = urlsplit(os.environ["DATABASE_URL"])

settings.configure(
    INSTALLED_APPS=["asynctasq_django"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": _place.path[1:],
            "HOST": _place.hostname,
            "PORT": _place.port,
            "USER": _place.username,
            "PASSWORD": _place.password or "",
        }
    },
    ASYNCTASQ={"postgres": os.environ["DATABASE_URL"]},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
)

import django  # noqa: E402

django.setup()

from django.db import connection, models  # noqa: E402


class User(models.Model):
    """Somebody."""

    name = models.CharField(max_length=100)  # type: ignore[var-annotated]

    class Meta:
        app_label = "shop"


class Order(models.Model):
    """Of a user."""

    user = models.ForeignKey(User, on_delete=models.CASCADE)  # type: ignore[var-annotated]
    is_paid = models.BooleanField(default=False)  # type: ignore[var-annotated]

    class Meta:
        app_label = "shop"


@sync_to_async
def setup() -> None:
    """Make tables and rows."""
    with connection.schema_editor() as editor:
        editor.create_model(User)
        editor.create_model(Order)
    ada = User.objects.create(name="Ada")
    for _ in range(2):
        Order.objects.create(user=ada)


@sync_to_async
def teardown() -> None:
    """Close the connection of this thread."""
    connection.close()

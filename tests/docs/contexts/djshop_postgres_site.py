"""The same as `djshop_site`, with its rows and its queues in PostgreSQL."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

import django
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
django.setup()

from djshop_models import Order, User, setup, teardown  # noqa: E402

__all__ = ["Order", "User", "setup", "teardown"]

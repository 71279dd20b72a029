"""What the pages on Django assume: a project with an app `shop`, a user and two orders."""

from __future__ import annotations

import django
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["asynctasq_django"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.sqlite3"}},
    ASYNCTASQ={"driver": "memory"},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
)
django.setup()

from djshop_models import Order, User, setup, teardown  # noqa: E402

__all__ = ["Order", "User", "setup", "teardown"]

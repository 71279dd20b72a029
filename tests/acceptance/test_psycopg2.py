"""Django with psycopg2, the driver that the specification names, where there is no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest

from ..servers import postgres_url
from .conftest import Environment, finished

SETTINGS = """
INSTALLED_APPS = ["asynctasq_django", "shop"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": %r}
"""
MODELS = """
from asynctasq import task
from django.db import models

class User(models.Model):
    email = models.EmailField()

@task
async def send_welcome_email(user: User):
    await user.arefresh_from_db()
    print(f"Sending welcome email to {user.email}")
"""
START = """
import django
django.setup()
from django.core.management import call_command
from django.db import transaction
from shop.models import User, send_welcome_email

call_command("migrate", run_syncdb=True, verbosity=0)
with transaction.atomic():
    user = User.objects.create(email="ada@example.com")
    handle = send_welcome_email(user).dispatch_sync()
with transaction.atomic():
    send_welcome_email(User.objects.create(email="nobody@example.com")).dispatch_sync()
    transaction.set_rollback(True)
"""


@pytest.fixture
def database() -> Iterator[dict[str, object]]:
    """An empty database, as Django's settings describe it."""
    url = postgres_url()
    name, parts = f"asynctasq_pg2_{uuid4().hex[:12]}", urlsplit(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": name,
            "HOST": parts.hostname,
            "PORT": parts.port or "",
            "USER": parts.username,
            "PASSWORD": parts.password or "",
        }
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_django_works_with_psycopg2(
    install: Callable[[Sequence[str]], Environment], database: dict[str, object], tmp_path: Path
) -> None:
    environment = install(["asynctasq[django]", "psycopg2-binary>=2.9.9"])
    assert "psycopg" not in environment.distributions()
    (tmp_path / "settings.py").write_text(SETTINGS % database)
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "models.py").write_text(MODELS)
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "start.py").write_text(START)
    settings = {"DJANGO_SETTINGS_MODULE": "settings"}
    finished(environment.run("python", "start.py", cwd=tmp_path, env=settings))
    worker = environment.run(
        "asynctasq", "worker", "shop.models", "--burst", cwd=tmp_path, env=settings
    )
    assert finished(worker) == "Sending welcome email to ada@example.com\n"

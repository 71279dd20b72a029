"""Chains of atomic tasks with Django, whose effects are rows that can be counted."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

import django
import pymysql
from asynctasq import task
from django.conf import settings
from django.db import connections, models, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper
from killed_at_step import commit, make_deadly, note_doubt, statement  # type: ignore[import-not-found]

#: Steps of one chain.
LENGTH = 3

make_deadly(CursorWrapper, "execute", lambda sql, *_: statement(sql))
make_deadly(CursorWrapper, "executemany", lambda sql, *_: statement(sql))
make_deadly(BaseDatabaseWrapper, "_commit", commit)

pymysql.install_as_MySQLdb()
settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql"}},
    INSTALLED_APPS=["asynctasq_django"],
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
)
django.setup()


class Chain(models.Model):
    """Attributes:
    value: How many of its steps are done, counted by them.
    first_call: The id of the call that begins it.
    """

    value: Any = models.IntegerField(default=0)
    first_call: Any = models.TextField(null=True)

    class Meta:
        app_label = "once"
        db_table = "chains"


class Effect(models.Model):
    """What one step has done."""

    chain_id: Any = models.IntegerField()
    step: Any = models.IntegerField()

    class Meta:
        app_label = "once"
        db_table = "effects"


@task(
    atomic=True,
    result_ttl=600,
    process="ONCE_PROCESS" in os.environ,
    max_attempts=100,
    retry_delay=0.01,
)
def advance(chain: Chain, step: int) -> int:
    """One step, which dispatches the next."""
    Chain.objects.filter(pk=chain.pk).update(value=models.F("value") + 1)
    Effect.objects.create(chain_id=chain.pk, step=step)
    if step + 1 < LENGTH:
        advance(chain, step + 1).dispatch_sync()
    return step


def forked() -> None:
    """Use the database of this process."""
    url = urlsplit(os.environ["ONCE_DATABASE_URL"])
    settings.DATABASES["default"] |= {
        "ENGINE": f"django.db.backends.{url.scheme}",
        "NAME": url.path[1:],
        "HOST": url.hostname,
        "PORT": url.port,
        "USER": url.username,
        "PASSWORD": url.password or "",
    }
    del connections["default"]  # which the setup has made, perhaps for another kind of server


if "ONCE_DATABASE_URL" in os.environ:  # in a child of a worker, which imports this itself
    forked()


class Never(Exception):
    """Rolls back."""


def send(chains: int) -> None:
    """Begin chains, each in a transaction of its own, and one that is rolled back before each."""
    for _ in range(chains):
        for is_real in (False, True):
            try:
                with transaction.atomic():
                    chain = Chain.objects.create()
                    chain.first_call = advance(chain, 0).dispatch_sync().id
                    chain.save()
                    if not is_real:
                        raise Never
            except Never:
                pass
    connections.close_all()


def doubt(chains: int) -> None:
    """Begin chains whose commits may fail; what their handles say then goes to a file."""
    for _ in range(chains):
        handle = None
        try:
            with transaction.atomic():
                chain = Chain.objects.create()
                handle = advance(chain, 0).dispatch_sync()
                chain.first_call = handle.id
                chain.save()
        except Exception as e:  # noqa: BLE001 - of the driver
            if handle is not None:
                note_doubt(e, handle.status_sync())
    connections.close_all()

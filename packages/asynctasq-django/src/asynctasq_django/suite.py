"""What `asynctasq test-adapter django` runs, on SQLite; it needs `asynctasq-core[testing]`.

If settings are configured already, it uses their databases `default` and `other`.
"""

from __future__ import annotations

import datetime
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal
from typing import Any, ClassVar

import django
import pytest
from asynctasq.testing import AdapterSuite, logged
from django.conf import settings

from . import prefetch_related
from .lanes import close_lanes

if not settings.configured:
    _folder = tempfile.TemporaryDirectory(prefix="asynctasq-django-")
    settings.configure(
        INSTALLED_APPS=["asynctasq_django"],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        DATABASES={
            alias: {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{_folder.name}/{alias}.db"}
            for alias in ("default", "other")
        },
    )
    django.setup()

from django.db import connection, connections, models, transaction
from django.test import override_settings

ALIASES = ("default", "other")


class Named(models.Model):
    """What all models of the suite have in common."""

    name: models.CharField[Any, Any] = models.CharField(max_length=50)

    class Meta:
        abstract = True
        app_label = "asynctasq_django"


class User(Named):
    """The main model."""


class Order(Named):
    """The second model, related to the first."""

    user: models.ForeignKey[Any, Any] = models.ForeignKey(
        User, models.CASCADE, related_name="orders", null=True
    )


class Visible(models.Manager[Any]):
    """Leaves out hidden rows."""

    def get_queryset(self) -> models.QuerySet[Any]:
        """Called by Django."""
        return super().get_queryset().filter(is_hidden=False)


class Note(Named):
    """Rows that may be hidden."""

    is_hidden: models.BooleanField[Any, Any] = models.BooleanField(default=False)
    objects: ClassVar[models.Manager[Any]] = Visible()


class Document(Named):
    """Keyed by UUID."""

    id: models.UUIDField[Any, Any] = models.UUIDField(primary_key=True, default=uuid.uuid4)


class Country(Named):
    """Keyed by text."""

    code: models.CharField[Any, Any] = models.CharField(primary_key=True, max_length=2)


class Price(Named):
    """Keyed by Decimal."""

    amount: models.DecimalField[Any, Any] = models.DecimalField(
        primary_key=True, max_digits=10, decimal_places=2
    )


class Day(Named):
    """Keyed by a date."""

    date: models.DateField[Any, Any] = models.DateField(primary_key=True)


class Hour(Named):
    """Keyed by a date and time."""

    at: models.DateTimeField[Any, Any] = models.DateTimeField(primary_key=True)


class Employee(User):
    """Keyed by the row of its parent."""


MODELS: list[type[models.Model]] = [
    User,
    Order,
    Note,
    Document,
    Country,
    Price,
    Day,
    Hour,
    Employee,
]

if django.VERSION >= (5, 2):

    class Seat(Named):
        """Keyed by two columns."""

        pk = models.CompositePrimaryKey("row", "number")
        row: models.CharField[Any, Any] = models.CharField(max_length=5)
        number: models.IntegerField[Any, Any] = models.IntegerField()

    MODELS.append(Seat)


def _without_table(alias: str) -> list[type[models.Model]]:
    with connections[alias].cursor() as cursor:
        tables = connections[alias].introspection.table_names(cursor)
    return [model for model in MODELS if model._meta.db_table not in tables]


class TestDjango(AdapterSuite):
    """Runs on whatever `settings.DATABASES["default"]` is."""

    adapter = "django"
    asynchronous = False
    composite_keys = django.VERSION >= (5, 2)
    other_keys = several_databases = hidden_rows = knows_deleted = stale_instances = True
    transactions = savepoints = context_transactions = declared_loading = outages = True
    missing_table = knows_limits = knows_connection = outbox = atomic = True
    #: Settings that make the database unreachable.
    away: ClassVar[dict[str, str]] = {"NAME": "/nowhere/suite.db"}

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls) -> None:
        """Override this to test on a server other than that of the settings."""

    @pytest.fixture(scope="class")
    @classmethod
    def tables(cls, server: None) -> Iterator[None]:
        """Created once per class: creating them for each test would take most of the time."""
        for alias in ALIASES:
            with connections[alias].schema_editor() as editor:
                for model in _without_table(alias):
                    editor.create_model(model)
        connections.close_all()
        yield
        for alias in ALIASES:
            with connections[alias].schema_editor() as editor:
                for model in reversed(MODELS):
                    editor.delete_model(model)
        connections.close_all()

    @pytest.fixture
    def database(self, tables: None) -> Iterator[None]:
        yield
        for alias in ALIASES:
            for model in reversed(MODELS):
                model._base_manager.using(alias).all()._raw_delete(alias)
        connections.close_all()

    def disconnect(self) -> None:
        connections.close_all()

    def save(self, name: str) -> User:
        return User.objects.create(name=name)

    def save_changes(self, row: Any) -> None:
        row.save()

    def save_other(self, name: str) -> Order:
        return Order.objects.create(name=name)

    def new(self, name: str) -> User:
        return User(name=name)

    def rename(self, row: Any, name: str) -> None:
        User.objects.filter(pk=row.pk).update(name=name)

    def delete(self, row: Any) -> None:
        row.delete()

    @contextmanager
    def without_table(self) -> Iterator[None]:
        there, away = map(connection.ops.quote_name, (User._meta.db_table, "asynctasq_away"))
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {there} RENAME TO {away}")
        yield
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {away} RENAME TO {there}")

    @contextmanager
    def statements(self) -> Iterator[list[str]]:
        with override_settings(DEBUG=True), logged("django.db.backends") as seen:
            yield seen

    def save_composite(self, name: str) -> Any:
        return Seat.objects.create(row="A", number=Seat.objects.count(), name=name)

    def save_with_other_keys(self) -> list[models.Model]:
        day = datetime.date(2026, 11, 22)
        return [
            Document.objects.create(),
            Document.objects.create(pk=str(uuid.uuid4())),
            Country.objects.create(code="CH"),
            Country.objects.create(code=41),
            Hour.objects.create(at=datetime.datetime(2026, 11, 22, 9, tzinfo=datetime.UTC)),
            Price.objects.create(amount=Decimal("12.50")),
            Day.objects.create(date=day),
            Employee.objects.create(),
        ]

    def save_elsewhere(self, name: str) -> User:
        return User.objects.using("other").create(name=name)

    def save_hidden(self, name: str) -> Any:
        return Note.objects.create(name=name, is_hidden=True)

    def stale(self, row: User) -> User:
        return User.objects.only("id").get(pk=row.pk)

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        with transaction.atomic():
            yield connection

    def read(self, transaction: Any, row: User) -> User:
        return User.objects.get(pk=row.pk)

    def save_loadable(self, name: str) -> User:
        user = self.save(name)
        Order.objects.create(name="book", user=user)
        return user

    def loading(self) -> Sequence[Any]:
        return [prefetch_related("orders")]

    def loaded(self, row: Any) -> list[str]:
        return [order.name for order in row.orders.all()]

    def is_connected(self) -> bool:
        return connection.connection is not None

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        await close_lanes()
        database = connections.settings["default"]
        before = {key: database[key] for key in self.away}
        database.update(self.away)
        yield
        database.update(before)
        await close_lanes()

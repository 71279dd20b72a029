"""What `asynctasq test-adapter tortoise` runs, on SQLite; it needs the extra `testing` of core."""

from __future__ import annotations

import asyncio
import enum
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
import pytest_asyncio
import tortoise
from asynctasq.testing import AdapterSuite, logged
from tortoise import Tortoise, fields
from tortoise.backends.base.executor import EXECUTOR_CACHE
from tortoise.manager import Manager
from tortoise.models import Model
from tortoise.queryset import QuerySet
from tortoise.transactions import in_transaction

from . import lifecycle, prefetch_related, select_for_update


class Named(Model):
    """What the suite needs in every model."""

    name: Any = fields.TextField(default="")

    class Meta:
        """Each model has a table of its own."""

        abstract = True


class User(Named):
    """The main model."""

    id = fields.IntField(primary_key=True)


class Order(Named):
    """The other model, with a relation."""

    id = fields.IntField(primary_key=True)
    user: Any = fields.ForeignKeyField("suite.User", related_name="orders", null=True)


class Ticket(Named):
    """Keyed by a UUID that is set before the insert."""

    id = fields.UUIDField(primary_key=True)


class Country(Named):
    """Keyed by text."""

    code = fields.CharField(primary_key=True, max_length=10)


class Event(Named):
    """Keyed by a large number whose column has another name."""

    number = fields.BigIntField(primary_key=True, source_field="event_number")


class Grade(enum.Enum):
    """Travels by value."""

    GOOD = "good"
    BAD = "bad"


class Mark(Named):
    """Keyed by a member of an enum."""

    grade = fields.CharEnumField(Grade, primary_key=True)


class Price(Named):
    """Keyed by a Decimal."""

    amount = fields.DecimalField(primary_key=True, max_digits=10, decimal_places=2)


class Hour(Named):
    """Keyed by a date and time."""

    at = fields.DatetimeField(primary_key=True)


class Profile(Named):
    """Keyed by its user."""

    user: Any = fields.OneToOneField("suite.User", primary_key=True, related_name="profile")


class _Visible(Manager):
    def get_queryset(self) -> Any:
        return super().get_queryset().filter(is_hidden=False)


class Note(Named):
    """Has a default manager that hides rows."""

    id = fields.IntField(primary_key=True)
    is_hidden = fields.BooleanField(default=False)

    class Meta:
        """The manager of `all`, `filter` and `get`."""

        manager = _Visible()


#: Models that refer to others come first.
MODELS: list[type[Model]] = [
    *(Order, Profile, User, Ticket, Country, Event, Note),
    *(Mark, Price, Hour),
]


class TestTortoise(AdapterSuite):
    """Runs on two SQLite files; a subclass may give the URLs of other databases."""

    adapter = "tortoise"
    other_keys = several_databases = hidden_rows = knows_deleted = stale_instances = True
    transactions = context_transactions = declared_loading = locking = lazy = outages = True
    missing_table = outbox = atomic = True
    savepoints = not tortoise.__version__.startswith("0.21.")

    @pytest.fixture(scope="class")
    @classmethod
    def urls(cls, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
        """URLs of the connections `default` and `other`, whose databases are empty."""
        folder = tmp_path_factory.mktemp("suite")
        return {name: f"sqlite://{folder}/{name}.db" for name in ("default", "other")}

    @pytest.fixture(scope="class")
    @classmethod
    def tables(cls, urls: Mapping[str, str]) -> None:
        """Created once per class: creating them for each test would take most of the time."""
        for url in urls.values():
            asyncio.run(_create_tables(url))

    @pytest_asyncio.fixture
    async def database(self, urls: Mapping[str, str], tables: None) -> AsyncIterator[None]:
        """All tables in both databases, without rows."""
        EXECUTOR_CACHE.clear()  # its keys are alias and table, without the dialect
        apps = {"suite": {"models": [__name__], "default_connection": "default"}}
        self._config = {"connections": dict(urls), "apps": apps}
        await self.set_up()
        for alias in urls:
            for model in MODELS:
                await QuerySet(model).using_db(tortoise.connections.get(alias)).delete()
        yield
        await self.forget_setup()

    async def set_up(self) -> None:
        """Initialise Tortoise as a task does."""
        if not Tortoise._inited:
            await Tortoise.init(config=self._config)

    async def forget_setup(self) -> None:
        """Close Tortoise and remove all traces of it."""
        await Tortoise.close_connections()
        _forget()

    async def disconnect(self) -> None:
        """Close what a test of lazy instances left to the worker."""
        await lifecycle.stop_worker()

    async def save(self, name: str) -> User:
        """A row of the main model."""
        return await User.create(name=name)

    async def save_changes(self, row: Any) -> None:
        """Saves in the transaction of this context."""
        await row.save()

    async def save_other(self, name: str) -> Order:
        """A row of the other model."""
        return await Order.create(name=name)

    def new(self, name: str) -> User:
        """A user that is not inserted."""
        return User(name=name)

    async def rename(self, row: Any, name: str) -> None:
        """Renames with a query."""
        await type(row).filter(pk=row.pk).update(name=name)

    async def delete(self, row: Any) -> None:
        """Deletes through the instance."""
        await row.delete()

    def statements(self) -> AbstractContextManager[list[str]]:
        """Read from the log of Tortoise's clients."""
        return logged("tortoise.db_client")

    async def save_with_other_keys(self) -> list[Any]:
        """Rows with keys of every other field type, and one keyed by another row."""
        return [
            await Ticket.create(name="Ada"),
            await Country.create(code="ÅX-1", name="Åland"),
            await Event.create(number=2**40, name="far away"),
            await Profile.create(user=await self.save("Ada"), name="hers"),
            await Mark.create(grade=Grade.BAD),
            await Price.create(amount=Decimal("12.5")),
            await Hour.create(at=datetime(2026, 11, 22, 9, 43, tzinfo=UTC)),
        ]

    async def save_elsewhere(self, name: str) -> User:
        """A user saved through the connection `other`."""
        return await User.create(using_db=tortoise.connections.get("other"), name=name)

    async def save_hidden(self, name: str) -> Any:
        """A note that `Note.all()` does not return."""
        return await Note.create(name=name, is_hidden=True)

    async def stale(self, row: Any) -> Any:
        """The user loaded with nothing but its key."""
        return await User.all().only("id").get(id=row.id)

    def transaction(self) -> Any:
        """A transaction on the default connection."""
        return in_transaction("default")

    async def read(self, transaction: Any, row: Any) -> User:
        """Reads through the connection of the context."""
        return await User.get(id=row.id)

    async def save_loadable(self, name: str) -> User:
        """A user with an order."""
        user = await self.save(name)
        await Order.create(name="book", user=user)
        return user

    def loading(self) -> Sequence[Any]:
        """Prefetches the user's orders."""
        return [prefetch_related("orders")]

    def loaded(self, row: Any) -> list[str]:
        """Names of orders, without a query, which would have to be awaited."""
        return [order.name for order in row.orders]

    def lock(self) -> Sequence[Any]:
        """A row lock; on SQLite only the transaction."""
        return [select_for_update()]

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        """Make the client look for its database where there is none."""
        client: Any = tortoise.connections.get("default")
        name, nowhere = ("port", 1) if hasattr(client, "port") else ("filename", "/nowhere/x.db")
        before = getattr(client, name)
        await client.close()
        setattr(client, name, nowhere)
        yield
        await client.close()
        setattr(client, name, before)

    @asynccontextmanager
    async def without_table(self) -> AsyncIterator[None]:
        client = tortoise.connections.get("default")
        quote = "`" if client.capabilities.dialect == "mysql" else '"'
        there, away = f"{quote}{User._meta.db_table}{quote}", f"{quote}away{quote}"
        await client.execute_script(f"ALTER TABLE {there} RENAME TO {away}")
        yield
        await client.execute_script(f"ALTER TABLE {away} RENAME TO {there}")


async def _create_tables(url: str) -> None:
    await Tortoise.init(db_url=url, modules={"suite": [__name__]})
    await Tortoise.generate_schemas()
    await Tortoise.close_connections()
    _forget()


def _forget() -> None:
    """Make Tortoise look as if it had never been initialised."""
    if contexts := sys.modules.get("tortoise.context"):
        contexts._current_context.set(None)
        return
    state: Any = Tortoise
    state._inited = False

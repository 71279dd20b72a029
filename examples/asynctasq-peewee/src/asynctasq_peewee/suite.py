"""What `asynctasq test-adapter peewee` runs, on SQLite; it needs the extra `testing`."""

import gc
import sqlite3
from contextlib import contextmanager
from typing import Any

import peewee
import pytest
from asynctasq.testing import AdapterSuite, logged

from . import prefetch

db = peewee.DatabaseProxy()


class Base(peewee.Model):
    name = peewee.CharField()

    class Meta:
        database = db


class User(Base): ...


class Order(Base):
    user = peewee.ForeignKeyField(User, backref="orders", null=True)


class Seat(Base):
    row = peewee.CharField()
    number = peewee.IntegerField()

    class Meta:
        primary_key = peewee.CompositeKey("row", "number")


class TestPeewee(AdapterSuite):
    adapter = "peewee"
    asynchronous = False
    composite_keys = declared_loading = transactions = savepoints = outages = True
    missing_table = counts_connections = knows_connection = outbox = atomic = True

    @pytest.fixture
    def database(self, tmp_path: Any) -> None:
        db.initialize(peewee.SqliteDatabase(f"{tmp_path}/db", pragmas={"synchronous": "off"}))
        with db.connection_context():
            db.create_tables([User, Order, Seat])

    def disconnect(self) -> None:
        db.close()

    def save(self, name: str) -> User:
        return User.create(name=name)

    def save_other(self, name: str) -> Order:
        return Order.create(name=name)

    def new(self, name: str) -> User:
        return User(name=name)

    def rename(self, row: Any, name: str) -> None:
        type(row).set_by_id(row.id, {"name": name})

    def save_changes(self, row: Any) -> None:
        row.save()

    def delete(self, row: Any) -> None:
        row.delete_instance()

    def statements(self) -> Any:
        return logged("peewee")

    def save_composite(self, name: str) -> Seat:
        return Seat.create(row="A", number=Seat.select().count(), name=name)

    def transaction(self) -> Any:
        return db.atomic()

    def read(self, transaction: Any, row: Any) -> User:
        return User.get_by_id(row.id)

    def save_loadable(self, name: str) -> User:
        user = self.save(name)
        Order.create(name="book", user=user)
        return user

    def loading(self) -> list[prefetch]:
        return [prefetch(Order)]

    def loaded(self, row: Any) -> list[str]:
        return [order.name for order in row.orders]

    @contextmanager
    def outage(self) -> Any:
        name = db.obj.database
        db.init("/nowhere/suite.db")
        yield
        db.init(name)

    @contextmanager
    def without_table(self) -> Any:
        user = "user".join(db.quote)
        db.execute_sql(f"ALTER TABLE {user} RENAME TO hidden")
        yield
        db.execute_sql(f"ALTER TABLE hidden RENAME TO {user}")

    def is_connected(self) -> bool:
        return not db.is_closed()

    def connections(self) -> int:
        found = [c for c in gc.get_objects() if isinstance(c, sqlite3.Connection)]
        return sum(map(_is_open, found))


def _is_open(connection: sqlite3.Connection) -> bool:
    try:
        return connection.total_changes >= 0
    except sqlite3.ProgrammingError:
        return False

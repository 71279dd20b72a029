"""What a reference weighs, against the row that it stands for, with each ORM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROW = """
from datetime import datetime, timezone
from decimal import Decimal

ROW = {
    "id": 1234567,
    "email": "ada.lovelace@example.com",
    "name": "Ada Lovelace",
    "phone": "+44 20 7946 0958",
    "street": "12 St James's Square",
    "city": "London",
    "postcode": "SW1Y 4JH",
    "country": "GB",
    "language": "en-GB",
    "credit": Decimal("1250.00"),
    "notes": "Prefers to be written to. Pays by invoice. Knows more of engines than we do. " * 6,
    "created_at": datetime(2025, 3, 14, 9, 26, 53, tzinfo=timezone.utc),
    "updated_at": datetime(2026, 11, 2, 17, 5, 1, tzinfo=timezone.utc),
}
TEXTS = [name for name, value in ROW.items() if isinstance(value, str)]
TIMES = ["created_at", "updated_at"]
"""
#: The model of that row with each ORM, and how a row of it is stored.
MODELS = {
    "sqlalchemy": """
from sqlalchemy import Column, DateTime, Integer, Numeric, String, create_engine
from sqlalchemy.orm import DeclarativeBase, Session
from row import ROW, TEXTS, TIMES

class Base(DeclarativeBase):
    pass

class Customer(Base):
    __tablename__ = "customers"
    id = Column(Integer, primary_key=True)
    credit = Column(Numeric(10, 2))
    vars().update({name: Column(String) for name in TEXTS})
    vars().update({name: Column(DateTime(timezone=True)) for name in TIMES})

async def stored():
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(customer := Customer(**ROW))
        session.commit()
    engine.dispose()
    return customer
""",
    "django": """
import django
from asgiref.sync import sync_to_async
from django.conf import settings

sqlite = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
settings.configure(DATABASES={"default": sqlite}, USE_TZ=True)
django.setup()

from django.db import connection, models
from row import ROW, TEXTS, TIMES

class Customer(models.Model):
    id = models.BigAutoField(primary_key=True)
    credit = models.DecimalField(max_digits=10, decimal_places=2)
    vars().update({name: models.TextField() for name in TEXTS})
    vars().update({name: models.DateTimeField() for name in TIMES})

    class Meta:
        app_label = "shop"

@sync_to_async
def stored():
    with connection.schema_editor() as editor:
        editor.create_model(Customer)
    customer = Customer.objects.create(**ROW)
    connection.close()
    return customer
""",
    "tortoise": """
from tortoise import Tortoise, fields
from tortoise.models import Model
from row import ROW, TEXTS, TIMES

class Customer(Model):
    id = fields.BigIntField(primary_key=True)
    credit = fields.DecimalField(max_digits=10, decimal_places=2)
    vars().update({name: fields.TextField() for name in TEXTS})
    vars().update({name: fields.DatetimeField() for name in TIMES})

async def stored():
    await Tortoise.init(db_url="sqlite://:memory:", modules={"models": ["shop.models"]})
    await Tortoise.generate_schemas()
    customer = await Customer.create(**ROW)
    await Tortoise.close_connections()
    return customer
""",
}
MEASURE = """
import asyncio
import json
from shop.models import stored
from asynctasq import init, task
from asynctasq.app import current
from asynctasq.sending.preparing import prepare
from row import ROW

@task
async def take(value: object) -> None: ...

def size(value):
    app = current()
    return len(prepare(take(value), app.config, app.adapters).outgoing.body)

init(driver="memory")
customer = asyncio.run(stored())
print(json.dumps([size(value) - size(None) for value in (customer, ROW)]))
"""


@pytest.mark.parametrize("orm", MODELS)
def test_a_reference_saves_nine_tenths_of_its_row(orm: str, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "models.py").write_text(MODELS[orm])
    (tmp_path / "row.py").write_text(ROW)
    (tmp_path / "measure.py").write_text(MEASURE)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ASYNCTASQ_", "DJ"))}
    done = subprocess.run(
        [sys.executable, "measure.py"],
        cwd=tmp_path,
        env=inherited,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    reference, row = json.loads(done.stdout)
    assert reference < 64
    assert reference <= row / 10, f"{reference} bytes instead of {row}"

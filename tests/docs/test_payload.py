"""What a reference weighs, against the row that it stands for."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

import asynctasq.app
from asynctasq import init, task
from asynctasq.dispatching import prepare
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

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
    "created_at": datetime(2025, 3, 14, 9, 26, 53),
    "updated_at": datetime(2026, 11, 2, 17, 5, 1),
}


@task
async def take(value: object) -> None: ...


def size(value: object) -> int:
    """Bytes of the message with this argument, beyond those with none."""
    app = asynctasq.app.current()
    return len(prepare(take(value), app).outgoing.body) - len(
        prepare(take(None), app).outgoing.body
    )


def test_a_reference_saves_nine_tenths_of_its_row() -> None:
    init(driver="memory")

    class Base(DeclarativeBase):
        pass

    class Customer(Base):
        __tablename__ = "customers"
        id: Mapped[int] = mapped_column(primary_key=True)
        email: Mapped[str]
        name: Mapped[str]
        phone: Mapped[str]
        street: Mapped[str]
        city: Mapped[str]
        postcode: Mapped[str]
        country: Mapped[str]
        language: Mapped[str]
        credit: Mapped[Decimal]
        notes: Mapped[str]
        created_at: Mapped[datetime]
        updated_at: Mapped[datetime]

    Customer.__module__, Customer.__qualname__ = "shop.models", "Customer"
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        customer = Customer(**ROW)
        session.add(customer)
        session.commit()
        reference, row = size(customer), size(ROW)
    engine.dispose()
    assert reference < 64
    assert reference <= row / 10, f"{reference} bytes instead of {row}"

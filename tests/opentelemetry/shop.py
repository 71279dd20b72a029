"""A small application with SQLAlchemy."""

from __future__ import annotations

from typing import Any, ClassVar

from asynctasq import task
from asynctasq_sqlalchemy import task_session
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Its models."""

    _asynctasq_session_factory: ClassVar[Any]


class Product(Base):
    """Something to sell."""

    __tablename__ = "products"
    id: Mapped[int] = mapped_column(primary_key=True)
    sold: Mapped[int]


@task
async def sell(product: Product) -> None:
    """Sell one."""
    product.sold += 1
    await task_session().commit()

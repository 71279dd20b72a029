"""Arguments as people see them: references by class and key, values shortened, nothing built."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgpack
import pytest
from asynctasq import Ref
from asynctasq.wire.describing import Reference, described, references
from asynctasq.wire.encoding import encode_arguments
from hypothesis import given
from hypothesis import strategies as st


class Row:
    def __init__(self, pk: Any) -> None:
        self.pk = pk

    def __repr__(self) -> str:
        return f"Row({self.pk!r})"


class Owner:
    name = "toy"

    def to_ref(self, obj: Row) -> Ref:
        return Ref("app.models.Order", obj.pk)


def text_of(*args: object, **kwargs: object) -> str:
    names = ("order", "subject")
    owner: Any = Owner()
    encoded = encode_arguments(
        args, kwargs, names, lambda v: owner if isinstance(v, Row) else None, {}
    )
    return described(encoded.payload, names)


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        ((Row(5), "Hi"), "order=Order#5, subject='Hi'"),
        ((Row((1, "a")),), "order=Order#1,a"),
        (([Row(1), Row(2)],), "order=[Order#1, Order#2]"),
        (((1, 2),), "order=(1, 2)"),
        (({3},), "order={3}"),
        (({"a": 1},), "order={'a': 1}"),
        ((None, True), "order=None, subject=True"),
        ((date(2026, 1, 2), Decimal("1.50")), "order=2026-01-02, subject=1.50"),
        ((UUID(int=1),), "order=00000000-0000-0000-0000-000000000001"),
        ((list(range(9)),), "order=[0, 1, 2, 3, 4, ...]"),
    ],
    ids=str,
)
def test_arguments_are_shown_in_short(args: tuple[object, ...], shown: str) -> None:
    assert text_of(*args) == shown


def test_long_texts_are_cut() -> None:
    assert len(text_of("x" * 10_000)) < 100
    assert len(text_of(*["x" * 10_000] * 50)) <= 500


def test_named_arguments_and_those_beyond_the_names_are_shown() -> None:
    assert text_of(1, 2, 3, more=Row(4)) == "order=1, subject=2, 3, more=Order#4"


@given(st.binary(max_size=200))
def test_damaged_bytes_show_nothing_and_raise_nothing(payload: bytes) -> None:
    assert isinstance(described(payload), str)


def test_a_hostile_class_path_is_text() -> None:
    body = msgpack.packb({"__orm:x__": 1, "__orm_class__": "a.<script>" * 50})
    payload = msgpack.packb([[msgpack.ExtType(1, body)], {}])
    assert len(described(payload)) <= 60


def test_references_name_the_model_and_the_key() -> None:
    owner: Any = Owner()
    encoded = encode_arguments(
        (Row(5), 1, Row((2, "a"))),
        {"other": Row("x"), "note": "Order#9"},
        ("order", "count"),
        lambda v: owner if isinstance(v, Row) else None,
        {},
    )
    model = "app.models.Order"
    assert references(encoded.payload, ("order", "count")) == (
        Reference("order", "Order#5", model, "5"),
        Reference("2", "Order#2,a", model, "2,a"),
        Reference("other", "Order#x", model, "x"),
    )


@given(st.binary())
def test_no_bytes_break_the_references(payload: bytes) -> None:
    assert isinstance(references(payload), tuple)

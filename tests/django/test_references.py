"""From instances to references and back to rows, on every database."""

from __future__ import annotations

import asyncio
import copy
import decimal
import math
import uuid
from collections.abc import Callable
from typing import Any

import django
import pytest
from asynctasq import (
    DeletedModelError,
    InvalidReference,
    Ref,
    ReferenceUnavailable,
    SerializationError,
    UnsavedModelError,
)
from asynctasq_django import adapter
from asynctasq_django.lanes import close_lanes
from django.db import connections, models
from django.test.utils import CaptureQueriesContext
from django.utils.functional import SimpleLazyObject
from django.utils.safestring import SafeString
from djshop.models import Admin, Country, Document, Employee, Named, Order, Session, User

composite = pytest.mark.skipif(django.VERSION < (5, 2), reason="composite keys came with 5.2")


async def fetch(*refs: Ref) -> list[Any]:
    try:
        return list(await adapter.fetch_many(list(refs)))
    finally:
        await close_lanes()


def fetch_sync(*refs: Ref) -> list[Any]:
    return asyncio.run(fetch(*refs))


def reference(model: type[models.Model], pk: Any, alias: str = "default") -> Ref:
    path = f"{model.__module__}.{model.__qualname__}"
    return Ref(path, pk, None if alias == "default" else alias)


def test_a_model_is_recognised_by_its_type_alone() -> None:
    assert adapter.is_model(object.__new__(User))
    assert not adapter.is_model(object())
    assert not adapter.is_model(User)


def test_a_reference_carries_class_and_key_and_no_column(db: str) -> None:
    user = User.objects.create(email="a@example.com")
    assert adapter.to_ref(user) == Ref("djshop.models.User", user.pk)


def test_a_row_comes_back_fresh(alias: str) -> None:
    user = User.objects.using(alias).create(email="a@example.com")
    User.objects.using(alias).update(email="b@example.com")
    (row,) = fetch_sync(adapter.to_ref(user))
    assert (type(row), row.pk, row.email) == (User, user.pk, "b@example.com")
    assert row._state.db == alias


def test_another_database_is_named_in_the_reference(need_database: Callable[[str], str]) -> None:
    need_database("default")
    user = User.objects.using(need_database("other")).create(email="a@example.com")
    ref = adapter.to_ref(user)
    assert ref.db == "other"
    assert fetch_sync(ref) == [user]
    assert fetch_sync(Ref(ref.model, ref.pk)) == [None]


def test_an_unsaved_instance_is_refused_with_the_way_to_save_it() -> None:
    with pytest.raises(UnsavedModelError, match=r"user\.asave\(\)"):
        adapter.to_ref(User(email="a@example.com"))


def test_a_key_with_a_default_does_not_make_an_instance_saved() -> None:
    session = Session()
    assert session.pk is not None
    with pytest.raises(UnsavedModelError):
        adapter.to_ref(session)


def test_a_deleted_instance_is_refused(db: str) -> None:
    user = User.objects.create(email="a@example.com")
    user.delete()
    with pytest.raises(DeletedModelError, match="User was deleted"):
        adapter.to_ref(user)


def test_a_proxy_comes_back_as_the_proxy(db: str) -> None:
    user = User.objects.create(email="a@example.com")
    ref = adapter.to_ref(Admin.objects.get(pk=user.pk))
    assert ref.model == "djshop.models.Admin"
    assert type(fetch_sync(ref)[0]) is Admin


def test_a_child_of_several_tables_comes_back_whole(alias: str) -> None:
    employee = Employee.objects.using(alias).create(email="a@example.com", salary=7)
    (row,) = fetch_sync(adapter.to_ref(employee))
    assert (type(row), row.email, row.salary) == (Employee, "a@example.com", 7)


def test_a_model_with_an_abstract_base_is_found_by_its_own_class(db: str) -> None:
    user = User.objects.create(email="a@example.com")
    order = Order.objects.create(title="book", user=user)
    assert fetch_sync(adapter.to_ref(order)) == [order]


def test_a_reference_to_an_abstract_class_is_invalid(db: str) -> None:
    with pytest.raises(InvalidReference, match="not a Django model with a table"):
        fetch_sync(reference(Named, 1))


def test_a_reference_to_a_lazy_object_is_invalid() -> None:
    with pytest.raises(InvalidReference, match="not a Django model with a table"):
        fetch_sync(Ref("django.utils.functional.SimpleLazyObject", 1))


@pytest.mark.parametrize("method", ["only", "defer"])
def test_a_deferred_instance_gives_its_reference_without_a_query(db: str, method: str) -> None:
    User.objects.create(email="a@example.com")
    user = getattr(User.objects, method)("email").get()
    with CaptureQueriesContext(connections["default"]) as queries:
        assert adapter.to_ref(user).pk == user.pk
    assert len(queries) == 0


def test_a_uuid_key_comes_back_as_a_uuid(alias: str) -> None:
    session = Session.objects.using(alias).create()
    ref = adapter.to_ref(session)
    assert isinstance(ref.pk, uuid.UUID)
    assert fetch_sync(ref) == [session]


def test_a_key_of_a_subclass_of_str_travels_as_a_plain_str(db: str) -> None:
    country = Country.objects.create(code=SafeString("de"))
    ref = adapter.to_ref(country)
    assert type(ref.pk) is str
    assert fetch_sync(ref) == [country]


@composite
def test_a_composite_key_travels_as_a_tuple(alias: str) -> None:
    from djshop.models import Seat

    seat = Seat.objects.using(alias).create(row="A", number=3)
    ref = adapter.to_ref(seat)
    assert ref.pk == ("A", 3)
    assert fetch_sync(ref) == [seat]


@composite
def test_an_unsaved_and_a_deleted_composite_key_are_refused(db: str) -> None:
    from djshop.models import Seat

    seat = Seat(row="A", number=3)
    with pytest.raises(UnsavedModelError):
        adapter.to_ref(seat)
    seat.save()
    seat.delete()
    with pytest.raises(DeletedModelError):
        adapter.to_ref(seat)


def test_the_user_of_a_request_is_taken_out_of_its_lazy_object(db: str) -> None:
    user = User.objects.create(email="a@example.com")
    lazy = SimpleLazyObject(lambda: User.objects.get(pk=user.pk))
    assert adapter.is_model(lazy)
    assert adapter.to_ref(lazy) == adapter.to_ref(user)


def test_a_lazy_object_that_holds_no_row_is_refused() -> None:
    with pytest.raises(SerializationError, match="object in a lazy object"):
        adapter.to_ref(SimpleLazyObject(object))


async def test_a_lazy_object_that_needs_a_query_is_refused_in_async_code(db: str) -> None:
    with pytest.raises(SerializationError, match=r"request\.auser"):
        adapter.to_ref(SimpleLazyObject(lambda: User.objects.get()))


def test_a_default_manager_hides_nothing(alias: str) -> None:
    document = Document.objects.using(alias).create(deleted=True)
    assert not Document.objects.using(alias).exists()
    assert fetch_sync(adapter.to_ref(document)) == [document]


def test_rows_come_in_the_order_asked_with_none_for_those_gone(alias: str) -> None:
    users = [User.objects.using(alias).create(email=str(i)) for i in range(3)]
    refs = [adapter.to_ref(user) for user in users]
    users[1].delete()
    assert fetch_sync(refs[2], refs[1], refs[0]) == [users[2], None, users[0]]


def test_a_repeated_key_gets_an_instance_of_its_own_each_time(alias: str) -> None:
    user = User.objects.using(alias).create(email="a@example.com", notes={"seen": [1]})
    ref = adapter.to_ref(user)
    first, second, third = fetch_sync(ref, ref, ref)
    assert first == second == third
    first.notes["seen"].append(2)
    first.email = "changed"
    assert second.notes == third.notes == {"seen": [1]}
    assert second.email == "a@example.com"
    second.save(using=alias)


def _queries(refs: list[Ref], alias: str) -> tuple[list[Any], int]:
    """The rows, and how many statements were executed for them."""
    statements: list[str] = []

    def count(execute: Any, sql: str, *rest: Any) -> Any:
        statements.append(sql)
        return execute(sql, *rest)

    from asynctasq_django.loading import load

    with connections[alias].execute_wrapper(count):
        rows = load(refs)
    return rows, len(statements)


def test_five_thousand_references_are_one_query_where_the_database_can(alias: str) -> None:
    User.objects.using(alias).bulk_create(User(email=str(i)) for i in range(5000))
    users = list(User.objects.using(alias).order_by("-email"))
    rows, queries = _queries([adapter.to_ref(user) for user in users], alias)
    assert rows == users
    limit = connections[alias].features.max_query_params or 5000
    assert queries == math.ceil(5000 / limit)


@composite
def test_five_thousand_composite_keys_are_fetched(alias: str) -> None:
    from djshop.models import Seat

    Seat.objects.using(alias).bulk_create(Seat(row=str(i % 7), number=i) for i in range(5000))
    seats = list(Seat.objects.using(alias).order_by("-number"))
    rows, queries = _queries([adapter.to_ref(seat) for seat in seats], alias)
    assert rows == seats
    assert alias == "lite" or queries == 1


HOSTILE = [
    None,
    "x",
    1.5,
    decimal.Decimal("1.5"),
    [1],
    (1, 2),
    {"a": 1},
    b"1",
    True,
    uuid.UUID(int=1),
    2**70,
    "1\0",
]


@pytest.mark.parametrize("pk", HOSTILE, ids=repr)
def test_a_key_that_cannot_be_one_of_the_model_is_invalid(alias: str, pk: Any) -> None:
    with pytest.raises(InvalidReference, match="cannot be its key"):
        fetch_sync(reference(User, pk, alias))


@pytest.mark.parametrize("pk", ["nul\0", 1.5, None, ["de"], {}, "\ud800"], ids=ascii)
def test_a_text_key_that_no_database_takes_is_invalid(alias: str, pk: Any) -> None:
    with pytest.raises(InvalidReference):
        fetch_sync(reference(Country, pk, alias))


@composite
@pytest.mark.parametrize("pk", [1, ("A",), ("A", 1, 2), ("A", None), "A1"], ids=repr)
def test_a_composite_key_of_the_wrong_shape_is_invalid(db: str, pk: Any) -> None:
    from djshop.models import Seat

    with pytest.raises(InvalidReference):
        fetch_sync(reference(Seat, pk))


def test_a_database_that_the_settings_do_not_name_is_invalid() -> None:
    with pytest.raises(InvalidReference, match="no database 'elsewhere'"):
        fetch_sync(Ref("djshop.models.User", 1, "elsewhere"))


@pytest.mark.parametrize("broken", ["default", "maria"])
def test_a_database_that_is_away_makes_rows_unavailable(
    broken: str, need_database: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    alias = need_database(broken)
    away = copy.deepcopy(connections.settings[alias])
    away["PORT"] = "1"
    monkeypatch.setitem(connections.settings, alias, away)
    with pytest.raises(ReferenceUnavailable, match=alias):
        fetch_sync(reference(User, 1, alias))


def test_a_missing_table_is_an_error_of_the_application(alias: str) -> None:
    class Unmade(models.Model):
        class Meta:
            app_label = f"djshop_{alias}"

    from asynctasq import class_path

    name = None if alias == "default" else alias
    with pytest.raises(django.db.DatabaseError):
        fetch_sync(Ref(class_path(Unmade), 1, name))

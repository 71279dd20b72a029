"""Django's everyday values travel as the plain ones that a fetched row would hold."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any

import asynctasq
import pytest
from asynctasq import SerializationError, Worker, register_type, task
from asynctasq_django import adapter
from django.db import models
from django.utils.functional import lazy
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy, ngettext_lazy, override


class Status(models.TextChoices):
    PAID = "paid", gettext_lazy("is paid")


class Size(models.IntegerChoices):
    LARGE = 3


class Landing(datetime.date, models.Choices):
    FIRST = 1969, 7, 20


@task(name="echo", result_ttl=60)
async def echo(value: Any) -> Any:
    return value


@task(name="as_status", result_ttl=60)
async def as_status(status: Status) -> str:
    return type(status).__name__


@task(name="made_here", result_ttl=60)
def made_here() -> Any:
    return {"html": mark_safe("<b>"), Status.PAID: [Size.LARGE, gettext_lazy("Monday")]}


@task(name="refuse", result_ttl=60)
def refuse() -> None:
    raise ValueError(gettext_lazy("Monday"))


@pytest.fixture(autouse=True)
def _memory_broker() -> None:
    asynctasq.init(driver="memory", task_defaults={"max_attempts": 1})


def result(call: asynctasq.Call[Any]) -> Any:
    async def run() -> Any:
        handle = await call.dispatch()
        await Worker(burst=True).run()
        return await handle.result(timeout=0)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (mark_safe("<b>"), "<b>"),
        (format_html("<b>{}</b>", "&"), "<b>&amp;</b>"),
        (gettext_lazy("Monday"), "Monday"),
        (format_lazy("{}!", gettext_lazy("Monday")), "Monday!"),
        (lazy(lambda: mark_safe("<i>"), str)(), "<i>"),
        (lazy(lambda: 2**80, int)(), 2**80),
        (ngettext_lazy("%d day", "%d days", 2), "%d days"),
        (Status.PAID, "paid"),
        (Status.PAID.label, "is paid"),
        (Size.LARGE, 3),
        (Landing.FIRST, datetime.date(1969, 7, 20)),
    ],
)
def test_an_everyday_value_travels_as_its_plain_one(value: Any, plain: object) -> None:
    arrived = result(echo({"in": [value], value: (value,)}))
    assert arrived == {"in": [plain], plain: (plain,)}
    assert {type(item) for item in (*arrived, *arrived["in"])} == {str, type(plain)}


def test_a_choice_is_a_member_again_where_the_annotation_says_so() -> None:
    assert result(as_status(Status.PAID)) == "Status"


def test_a_result_may_hold_them_too() -> None:
    assert result(made_here()) == {"html": "<b>", "paid": [3, "Monday"]}


def test_an_error_may_hold_them_too() -> None:
    with pytest.raises(ValueError, match="Monday"):
        result(refuse())


def test_a_translation_is_made_in_the_language_that_is_active_at_the_call() -> None:
    with override("de"):
        call = echo(gettext_lazy("Monday"))
        assert result(call) == "Montag"


def test_a_text_that_still_needs_its_number_is_refused() -> None:
    with pytest.raises(SerializationError, match="NumberAwareString"):
        echo(ngettext_lazy("%d day", "%d days")).dispatch_sync()


def test_a_safe_string_can_be_registered_to_stay_one() -> None:
    register_type(SafeString, "safe", str, mark_safe)
    try:
        assert type(result(echo([mark_safe("<b>")]))[0]) is SafeString
    finally:
        del asynctasq.wire.encoding._registered[SafeString]


def test_values_of_others_are_left_to_them() -> None:
    assert adapter.plain_form(object()) is None

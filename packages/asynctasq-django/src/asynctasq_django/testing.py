"""Django's tests: each begins with an empty queue where the queue is in the process's memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import asynctasq
from django.conf import settings

from . import settings as configuration

_MARK = "asynctasq_empties_the_queue"


def empty_queue_before_each_test() -> None:
    """From now on, begin each test of Django's as it begins with an empty `mail.outbox`.

    Django sends no signal when a test begins, so the step of its tests that empties the outbox is
    replaced; pytest-django takes the same step.
    """
    from django.test import SimpleTestCase

    original = vars(SimpleTestCase)["_pre_setup"]  # a class method since Django 5.2
    function: Callable[..., None] = getattr(original, "__func__", original)
    if hasattr(function, _MARK):
        return

    @wraps(function)
    def pre_setup(*args: Any) -> None:
        _empty_queue()
        function(*args)

    setattr(pre_setup, _MARK, True)
    replaced: Any = classmethod(pre_setup) if isinstance(original, classmethod) else pre_setup
    SimpleTestCase._pre_setup = replaced  # type: ignore[attr-defined]


def _empty_queue() -> None:
    """Configure anew, which makes a new queue, unless somebody has configured something else."""
    if configuration.is_in_use and asynctasq.load_config(settings.ASYNCTASQ).driver == "memory":
        configuration.configure(settings)

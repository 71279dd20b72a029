"""Django's tests: each begins with an empty queue if the queue is in the process's memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

_MARK = "asynctasq_empties_the_queue"


def before_each_test(empty_queue: Callable[[], None]) -> None:
    """From now on, empty the queue before each Django test, as Django empties `mail.outbox`.

    Django sends no signal when a test begins, so this replaces the step of its tests that empties
    the outbox; pytest-django runs the same step.
    """
    from django.test import SimpleTestCase

    original = vars(SimpleTestCase)["_pre_setup"]  # a class method since Django 5.2
    function: Callable[..., None] = getattr(original, "__func__", original)
    if hasattr(function, _MARK):
        return

    @wraps(function)
    def pre_setup(*args: Any) -> None:
        empty_queue()
        function(*args)

    setattr(pre_setup, _MARK, True)
    replaced: Any = classmethod(pre_setup) if isinstance(original, classmethod) else pre_setup
    SimpleTestCase._pre_setup = replaced  # type: ignore[attr-defined]

"""Options of asynctasq for one of Django's tasks, whose own decorator takes none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from asynctasq import ConfigurationError

F = TypeVar("F", bound=Callable[..., Any])

_ATTRIBUTE = "asynctasq_task_options"
#: What Django's own decorator says.
_DJANGOS = {"name": "the function's module and name", "queue": "@task(queue_name=...)"}


def task_options(**options: Any) -> Callable[[F], F]:
    """Give one of Django's tasks options, on top of those in its backend's `OPTIONS`.

        @task
        @task_options(limit=Limit(1, by="order"))
        def ship(order: Order) -> None: ...

    They are checked when the task is declared for an `AsynctasqBackend`; other backends ignore
    them.

    Args:
        options: Those of `asynctasq.task`, except `name` and `queue`.

    Raises:
        ConfigurationError: It stands above `@task`, or an option is Django's.
    """
    for option in options:
        if option in _DJANGOS:
            raise ConfigurationError(f"task_options: {option} is given by {_DJANGOS[option]}")

    def decorate(function: F) -> F:
        if not callable(function):  # a task of Django's is not
            raise ConfigurationError("task_options stands below @task, next to the function")
        setattr(function, _ATTRIBUTE, {**options_of(function), **options})
        return function

    return decorate


def options_of(function: Callable[..., Any]) -> Mapping[str, Any]:
    """The options that a task's function was given."""
    options: Mapping[str, Any] = getattr(function, _ATTRIBUTE, {})
    return options

"""Sets Django up in a worker, and explains what is missing if it cannot."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from functools import cache

from asynctasq import ConfigurationError

_VARIABLE = "DJANGO_SETTINGS_MODULE"


def prepare() -> Iterable[str]:
    """Set up Django if it is used here, and name the `tasks` modules of the installed apps.

    Raises:
        ConfigurationError: `DJANGO_SETTINGS_MODULE` names a module that does not exist.
    """
    if not os.environ.get(_VARIABLE) and "django" not in sys.modules:
        return ()
    import django
    from django.apps import apps
    from django.conf import settings

    if not os.environ.get(_VARIABLE) and not settings.configured:
        return ()
    try:
        settings.INSTALLED_APPS  # noqa: B018 - reads the settings module
    except ModuleNotFoundError as e:
        raise ConfigurationError(
            f"{_VARIABLE} is {os.environ.get(_VARIABLE)!r}, which cannot be imported from here: {e}"
        ) from e
    if not apps.ready:
        django.setup()
    return _start()


def _start() -> list[str]:
    from asynctasq import class_path
    from django.apps import apps
    from django.utils.module_loading import module_has_submodule

    from .connections import watch_connections

    watch_connections()
    if not apps.is_installed("asynctasq_django"):
        _configure_once()
    # Also models without a name in any module, such as the table of a many-to-many relation.
    for model in apps.get_models(include_auto_created=True):
        class_path(model)
    return [
        f"{config.name}.tasks"
        for config in apps.get_app_configs()
        if module_has_submodule(config.module, "tasks")
    ]


@cache
def _configure_once() -> None:
    """Configure only once: the application's modules call `asynctasq.init` later, and win."""
    from django.conf import settings

    from .settings import configure

    configure(settings)


def explain_import(error: Exception) -> str | None:
    """Which variable to set if a module failed because Django was not set up."""
    if "django" not in sys.modules:
        return None
    from django.core.exceptions import AppRegistryNotReady, ImproperlyConfigured

    unprepared = isinstance(error, AppRegistryNotReady) or (
        isinstance(error, ImproperlyConfigured) and _VARIABLE in str(error)
    )
    if not unprepared:
        return None
    return (
        f"Django is not set up: set the environment variable {_VARIABLE} to the path of the "
        f"settings module (such as mysite.settings), or start the worker with "
        f"`manage.py asynctasq worker`"
    )

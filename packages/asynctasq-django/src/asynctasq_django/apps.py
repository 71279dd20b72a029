"""The Django application: `"asynctasq_django"` in `INSTALLED_APPS`."""

from __future__ import annotations

import logging
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import register
from django.core.signals import setting_changed


class AsynctasqConfig(AppConfig):
    """Applies `settings.ASYNCTASQ` at startup; opens no connection and starts no thread."""

    name = "asynctasq_django"
    verbose_name = "asynctasq"

    def ready(self) -> None:
        """Configure asynctasq, watch transactions and register the system checks."""
        _enable_loggers()
        from .checks import check_settings, check_tasks
        from .connections import watch_connections
        from .settings import configure

        watch_connections()
        register(check_settings)
        register(check_tasks)
        setting_changed.connect(_configure_again, dispatch_uid="asynctasq_django")
        configure(settings)


def _configure_again(*, setting: str, value: Any, **_: object) -> None:
    """Apply a test's `override_settings(ASYNCTASQ=...)`."""
    from .settings import configure

    if setting == "ASYNCTASQ":
        configure(settings)


def _enable_loggers() -> None:
    """Re-enable loggers: by default `settings.LOGGING` disables existing ones it does not name."""
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("asynctasq") and isinstance(logger, logging.Logger):
            logger.disabled = False

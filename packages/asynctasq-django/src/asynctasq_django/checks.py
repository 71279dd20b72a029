"""System checks of `settings.ASYNCTASQ`, for `manage.py check` and what runs it first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import asynctasq
from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning


def check_settings(app_configs: Sequence[AppConfig] | None, **_: object) -> list[CheckMessage]:
    """Keys and values that asynctasq refuses, and a queue that other processes cannot reach."""
    options = getattr(settings, "ASYNCTASQ", {})
    if not isinstance(options, Mapping):
        return [Error("ASYNCTASQ must be a dictionary.", id="asynctasq.E001")]
    try:
        config = asynctasq.load_config(options)
    except asynctasq.ConfigurationError as e:
        return [Error(f"ASYNCTASQ: {e}", id="asynctasq.E002")]
    if config.driver == "memory" and not settings.DEBUG:
        return [
            Warning(
                "ASYNCTASQ: the queue is in the memory of this process, so no worker sees it.",
                hint='Set "driver" to "redis", or to "sqlite" on a single machine.',
                id="asynctasq.W001",
            )
        ]
    return []

"""Which backends of `settings.TASKS` are ours, read without making any."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from django.conf import settings
from django.utils.module_loading import import_string


def own_backends() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Alias and parameters of each backend that puts tasks on asynctasq's queues."""
    for alias, params in (getattr(settings, "TASKS", None) or {}).items():
        try:
            cls = import_string(params["BACKEND"])
        except ImportError:
            continue  # Django says so when it is used
        # Not imported here: Django's Tasks or their backport may not be installed.
        ours = sys.modules.get("asynctasq_django.tasks_backend")
        if ours is not None and isinstance(cls, type) and issubclass(cls, ours.AsynctasqBackend):
            yield alias, params


def queue_names() -> list[str]:
    """The queues that these backends may put tasks on."""
    return [queue for _, params in own_backends() for queue in params.get("QUEUES") or ()]

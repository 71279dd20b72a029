"""System checks of `settings.ASYNCTASQ` and `settings.TASKS`: problems a dispatch would hit."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import asynctasq
from asynctasq import Config
from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning

from .settings import NOT_A_DICTIONARY
from .task_settings import own_backends


def check_settings(app_configs: Sequence[AppConfig] | None, **_: object) -> list[CheckMessage]:
    """Check for refused keys and values, missing files, and a queue that goes nowhere."""
    options = getattr(settings, "ASYNCTASQ", {})
    if not isinstance(options, Mapping):
        return [Error(f"ASYNCTASQ {NOT_A_DICTIONARY}.", id="asynctasq.E001")]
    try:
        config = asynctasq.load_config(options)
    except asynctasq.ConfigurationError as e:
        return [Error(f"ASYNCTASQ: {e}", id="asynctasq.E002")]
    return [*_check_broker(config)]


def check_tasks(app_configs: Sequence[AppConfig] | None, **_: object) -> list[CheckMessage]:
    """Check for queues and options of backends in `settings.TASKS` that asynctasq refuses."""
    found: list[CheckMessage] = []
    for alias, params in own_backends():
        wrong = [params.get("OPTIONS") or {}, *({"queue": q} for q in params.get("QUEUES") or ())]
        for options in wrong:
            try:
                asynctasq.load_config({"task_defaults": options})
            except asynctasq.ConfigurationError as e:
                problem = str(e).removeprefix("task_defaults: ")
                found.append(Error(f"TASKS[{alias!r}]: {problem}", id="asynctasq.E004"))
    return found


def _check_broker(config: Config) -> Iterator[CheckMessage]:
    if config.driver == "memory" and not settings.DEBUG:
        yield Warning(
            "ASYNCTASQ: the queue is in the memory of this process, so no worker sees it.",
            hint='Set "driver" to "redis", or to "sqlite" on a single machine.',
            id="asynctasq.W001",
        )
    elif config.driver == "sqlite" and not _can_be_written(Path(config.broker.path)):
        yield Error(
            f"ASYNCTASQ: the queue file {config.broker.path} cannot be made or written here.",
            hint="Check the owner and the permissions of the file and its folder.",
            id="asynctasq.E003",
        )


def _can_be_written(path: Path) -> bool:
    path = path.expanduser().absolute()
    if path.exists() and not (path.is_file() and os.access(path, os.R_OK | os.W_OK)):
        return False
    folder = next(parent for parent in path.parents if parent.exists())
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)

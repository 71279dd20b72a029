"""`settings.ASYNCTASQ`: what `asynctasq.init` takes, as a dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import asynctasq
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from .testing import before_each_test

NOT_A_DICTIONARY = (
    'must be a dictionary with the options of asynctasq.init, such as {"driver": "sqlite"}; '
    "leave it out to use the environment and the defaults"
)


#: Whether the configuration in use comes from the settings, not from a later `init`.
is_in_use = False


def configure(settings: Any) -> None:
    """Pass `settings.ASYNCTASQ`, if it is set, to `asynctasq.init`.

    Raises:
        ImproperlyConfigured: It is not a dictionary, or asynctasq refuses a key or a value.
    """
    if not hasattr(settings, "ASYNCTASQ"):
        return
    options = settings.ASYNCTASQ
    if not isinstance(options, Mapping):
        raise ImproperlyConfigured(
            f"settings.ASYNCTASQ {NOT_A_DICTIONARY}, but it is {_shown(options)}"
        )
    global is_in_use
    try:
        config = asynctasq.init(options)
    except asynctasq.ConfigurationError as e:
        raise ImproperlyConfigured(f"settings.ASYNCTASQ: {e}") from e
    is_in_use = True
    if config.driver == "memory":
        before_each_test(_empty_queue)


def _empty_queue() -> None:
    """Configure again, which makes a new queue, unless something else is configured."""
    if is_in_use and asynctasq.load_config(settings.ASYNCTASQ).driver == "memory":
        configure(settings)


def note_init() -> None:
    """Note that `asynctasq.init` was called; `configure` corrects this after its own call."""
    global is_in_use
    is_in_use = False


def _shown(options: object) -> str:
    return "None" if options is None else f"a {type(options).__name__}"

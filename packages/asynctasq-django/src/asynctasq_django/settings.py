"""`settings.ASYNCTASQ`: what `asynctasq.init` takes, as a dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import asynctasq
from django.core.exceptions import ImproperlyConfigured

NOT_A_DICTIONARY = (
    'must be a dictionary with the options of asynctasq.init, such as {"driver": "sqlite"}; '
    "leave it out to use the environment and the defaults"
)


def configure(settings: Any) -> None:
    """Give `settings.ASYNCTASQ`, if there is one, to `asynctasq.init`.

    Raises:
        ImproperlyConfigured: It is no dictionary, or has a key or value that asynctasq refuses.
    """
    if not hasattr(settings, "ASYNCTASQ"):
        return
    options = settings.ASYNCTASQ
    if not isinstance(options, Mapping):
        raise ImproperlyConfigured(
            f"settings.ASYNCTASQ {NOT_A_DICTIONARY}, but it is {_shown(options)}"
        )
    try:
        asynctasq.init(options)
    except asynctasq.ConfigurationError as e:
        raise ImproperlyConfigured(f"settings.ASYNCTASQ: {e}") from e


def _shown(options: object) -> str:
    return "None" if options is None else f"a {type(options).__name__}"

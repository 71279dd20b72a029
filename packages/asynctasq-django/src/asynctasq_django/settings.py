"""`settings.ASYNCTASQ`: what `asynctasq.init` takes, as a dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import asynctasq
from django.core.exceptions import ImproperlyConfigured


def configure(settings: Any) -> None:
    """Give `settings.ASYNCTASQ`, if there is one, to `asynctasq.init`.

    Raises:
        ImproperlyConfigured: It is no dictionary, or has a key or value that asynctasq refuses.
    """
    options = getattr(settings, "ASYNCTASQ", None)
    if options is None:
        return
    if not isinstance(options, Mapping):
        raise ImproperlyConfigured("settings.ASYNCTASQ must be a dictionary")
    try:
        asynctasq.init(options)
    except asynctasq.ConfigurationError as e:
        raise ImproperlyConfigured(f"settings.ASYNCTASQ: {e}") from e

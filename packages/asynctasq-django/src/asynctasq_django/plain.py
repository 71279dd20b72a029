"""The plain values of Django's everyday types: safe strings, lazy translations, choices.

A fetched row holds plain values where a fresh instance holds what it was given; converted, both
travel alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db.models.enums import Choices
from django.utils.functional import Promise
from django.utils.safestring import SafeString


def plain_form(obj: object) -> Callable[[Any], object] | None:
    """A function that makes plain values from the object's type, if it is one of Django's."""
    if isinstance(obj, SafeString):
        return str.__str__
    if isinstance(obj, Choices):
        return lambda member: member.value
    if isinstance(obj, Promise):
        return lambda promise: promise._proxy____cast()
    return None

"""Unique calls: what makes two calls the same, and until when."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from ..brokers import UniqueKey
from ..tasks.policies import Unique
from .keys import KeyArguments


def unique_key(unique: Unique, arguments: KeyArguments) -> UniqueKey:
    """The unique key as the broker takes it."""
    if unique.by is None:
        unique = replace(unique, by=tuple(arguments.values))
    key = arguments.key(arguments.call.task.name, unique)
    replaces = unique.on_conflict == "replace"
    if isinstance(unique.until, timedelta):
        return UniqueKey(key, lasts_seconds=unique.until.total_seconds(), replaces=replaces)
    until = unique.until or ("started" if replaces else "done")
    return UniqueKey(key, until, replaces=replaces)

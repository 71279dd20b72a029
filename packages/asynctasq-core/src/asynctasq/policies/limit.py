"""Limits: how many calls of a key run at once."""

from __future__ import annotations

from ..brokers import LimitKey
from ..tasks.policies import Limit
from .keys import KeyArguments


def limit_key(limit: Limit, arguments: KeyArguments) -> LimitKey:
    """The limit as the broker takes it."""
    key = arguments.key(limit.name or arguments.call.task.name, limit)
    return LimitKey(key, limit.most)

"""Rates: how fast calls of a key start."""

from __future__ import annotations

from ..brokers import RateKey
from ..tasks.policies import Rate
from .keys import KeyArguments


def rate_key(rate: Rate, arguments: KeyArguments) -> RateKey:
    """The rate as the broker takes it."""
    key = arguments.key(rate.name or arguments.call.task.name, rate)
    return RateKey(key, rate.seconds / rate.count, rate.burst)

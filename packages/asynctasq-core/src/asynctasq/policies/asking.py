"""What a call asks of its broker: each policy of its task, with the key of this call."""

from __future__ import annotations

from typing import Any

from ..adapters.plugins import Adapters
from ..brokers import Policy
from ..errors import ConfigurationError
from ..tasks.call import Call
from ..tasks.options import TaskOptions
from ..tasks.policies import Unique, check_policies
from .keys import KeyArguments
from .limit import limit_key
from .rate import rate_key
from .unique import unique_key


def unique_of(call: Call[Any], options: TaskOptions) -> Unique | None:
    """The call's own `unique`, or its task's."""
    unique = options.unique if call.unique_given is None else call.unique_given
    return Unique() if unique is True else unique or None


def policy_of(call: Call[Any], options: TaskOptions, adapters: Adapters) -> Policy | None:
    """What the message of a call asks of the broker.

    Raises:
        ConfigurationError: It is for another queue than its task's, or a key is impossible.
        SerializationError: A value in a key cannot travel.
    """
    task, unique, limit, rate = call.task, unique_of(call, options), options.limit, options.rate
    declared = [policy for policy in (unique, limit, rate) if policy is not None]
    if not declared:
        return None
    if task.cls is not None:  # its decorators may have changed its `__init__` since the declaration
        check_policies(task, declared)
    if (limit or rate) and call.queue not in (None, options.queue):
        raise ConfigurationError(
            f"call of {task.name}: limits and rates hold inside a queue, so it goes to "
            f"{options.queue!r} and not to {call.queue!r}"
        )
    arguments = KeyArguments(call, adapters)
    return Policy(
        unique_key(unique, arguments) if unique else None,
        limit_key(limit, arguments) if limit else None,
        rate_key(rate, arguments) if rate else None,
    )

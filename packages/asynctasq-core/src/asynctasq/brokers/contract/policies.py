"""What a message may ask of its broker besides being delivered: to be alone, and not too many.

Each part is a key with numbers; brokers know nothing of the tasks and rows that keys stand for. A
broker keeps a message's policy as long as it holds the message, through retries and postponements,
and applies it in the same atomic step as the transition it belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class UniqueKey:
    """Of all messages of a queue with this key, one is held at a time.

    The key is taken by the put that adds a message. It is freed when that message is done, dead,
    cancelled or purged, and with `until="started"` by its first delivery, in the same step, so that
    what is put from then on is a message of its own; with `lasts_seconds` only when that time is
    over. A message that comes back, from a retry, a lost lease or its dead letter, takes no key.

    Attributes:
        key: Scoped by its queue.
        until: What frees it: the message's first delivery, or its end.
        lasts_seconds: In place of `until`: how long the key is taken, counted from the put.
        replaces: What a put with a taken key does: nothing, or, if the message that has the key is
            waiting or delayed AND has the id of the one that is put, to put this one in its place:
            body, due time, priority, policy, and a new place in the order. (A sender learns the id
            from the first put's answer.)
    """

    key: str
    until: Literal["started", "done"] = "done"
    lasts_seconds: float | None = None
    replaces: bool = False


@dataclass(frozen=True, slots=True)
class LimitKey:
    """Of all messages of a queue with this key, at most so many are running at a time.

    The others stand in the key's line, by priority, and then in the order in which they were put or
    became due; what was released or comes back from a lost lease goes first. There they cost no
    consumer anything. A broker may let messages pass when a consumer takes, or ahead of it, as
    *ready*, and then at most so many are ready or running. The next of a line can be taken after
    the step in which a message of the key is settled, cancelled or purged, or its lease runs out.

    Attributes:
        most: At least 1. Where messages of one key differ in it, each is judged by its own.
    """

    key: str
    most: int


@dataclass(frozen=True, slots=True)
class RateKey:
    """Messages of a queue with this key are delivered no faster than this (GCRA).

    A message conforms at `now` if `now >= tat - (burst - 1) * interval`, where `tat` is what the
    key's last delivery left: `max(now, tat) + interval`. All by the broker's clock. Judged when the
    message is about to be delivered to a consumer that has room for it, never ahead: a backlog that
    no worker took saves nothing up beyond `burst`. The others stand in the key's line and become
    ready at the time that the formula gives. What is delivered again after a lease ran out, or was
    released, is not counted again.

    Attributes:
        interval_seconds: The time that one message uses up: period / count.
        burst: How many may be delivered at once after a pause; at least 1.
    """

    key: str
    interval_seconds: float
    burst: int = 1


@dataclass(frozen=True, slots=True)
class Policy:
    """What one message asks for; a message that asks for nothing has no policy and costs nothing.

    With a limit and a rate, both must allow it at the same time: a message that waits for its rate
    holds no place of its limit. Messages with the same pair of keys share a line.
    """

    unique: UniqueKey | None = None
    limit: LimitKey | None = None
    rate: RateKey | None = None

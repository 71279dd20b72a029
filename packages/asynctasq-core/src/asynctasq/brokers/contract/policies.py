"""What a message may ask of its broker besides delivery: uniqueness, and limits on runs and rates.

Each part is a key with numbers; brokers know nothing of the tasks and rows that keys stand for. A
broker keeps a message's policy for as long as it holds the message, through retries and
postponements, and applies it in the same atomic step as the transition that it belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class UniqueKey:
    """A queue holds at most one message with this key at a time.

    The put that adds a message takes the key. The key is freed when that message is done, dead,
    cancelled or purged; with `until="started"`, already by its first delivery, in the same step, so
    that a later put adds a new message; with `lasts_seconds`, only once that time has passed. A
    message that comes back, from a retry, an expired lease or the dead letters, takes no key.

    Attributes:
        key: Scoped to its queue.
        until: What frees the key: the message's first delivery, or its end.
        lasts_seconds: Instead of `until`: how long the key stays taken, counted from the put.
        replaces: What a put with a taken key does. `False`: nothing. `True`: if the key's holder is
            waiting or delayed AND has the id of the message being put, replace it: body, due time,
            priority, policy, and a new place in the order. (The sender learns the holder's id from
            the answer to its first put.)
    """

    key: str
    until: Literal["started", "done"] = "done"
    lasts_seconds: float | None = None
    replaces: bool = False


@dataclass(frozen=True, slots=True)
class LimitKey:
    """At most `most` of a queue's messages with this key run at a time.

    The others stand in the key's line, ordered by priority, then by when they were put or became
    due; messages that were released or whose lease expired go first. Waiting there costs consumers
    nothing. A broker may let messages pass when a consumer takes, or ahead of time as *ready*; then
    at most `most` are ready or running. The next in line can be taken after the step in which a
    message with the key is settled, cancelled or purged, or its lease expires.

    Attributes:
        most: At least 1. If messages with one key differ in it, each is judged by its own.
    """

    key: str
    most: int


@dataclass(frozen=True, slots=True)
class RateKey:
    """A queue's messages with this key are delivered no faster than this rate (GCRA).

    A message conforms at `now` if `now >= tat - (burst - 1) * interval`, where `tat` is what the
    key's last delivery left: `max(now, tat) + interval`, all by the broker's clock. A message is
    judged when it is about to be delivered to a consumer with room for it, never earlier: an
    untaken backlog saves up no more than `burst`. The others stand in the key's line and become
    ready at the time that the formula gives. A message that is delivered again, after its lease
    expired or it was released, is not counted again.

    Attributes:
        interval_seconds: The time that one message uses up: period / count.
        burst: How many may be delivered at once after a quiet time; at least 1.
    """

    key: str
    interval_seconds: float
    burst: int = 1


@dataclass(frozen=True, slots=True)
class Policy:
    """What one message asks for; a message that asks for nothing has no policy and costs nothing.

    If a message has both a limit and a rate, both must allow it at the same time: while it waits
    for its rate, it does not count towards its limit. Messages with the same pair of keys share a
    line.
    """

    unique: UniqueKey | None = None
    limit: LimitKey | None = None
    rate: RateKey | None = None

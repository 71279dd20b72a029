"""Turns outcomes into the commands that apply them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .. import Action, Delivery, Outcome
from ..parking import pause_number
from .keys import QueueKeys
from .scripts import SETTLE, SETTLE_ASKING, Command

#: Maximum size of one script call's outcomes (a single outcome may be larger), so that the server's
#: other clients do not wait long. An outcome counts the bytes that it makes the server move, and at
#: least the minimum given here in addition.
_MOST_BYTES, _LEAST_BYTES, _LEAST_BYTES_ASKING = 1024 * 1024, 2048, 8192
#: Outcomes of this size and above are sent alone, since a server may refuse them: it accepts no
#: value above its `proto-max-bulk-len`, which is at least a megabyte, and may limit client buffers.
_LARGE_BYTES = 512 * 1024


#: First byte of the tag of a delivery from the `admitted` stream.
ADMITTED = b"*"


class AdmittedTag(bytes):
    """The tag of a delivery from `admitted`, with what its message asks for (`lines.lua`)."""

    asked: bytes = b""

    @classmethod
    def of(cls, entry: bytes, extra: bytes) -> AdmittedTag:
        """The tag for a stream entry with this `extra` field."""
        tag = cls(ADMITTED + entry)
        tag.asked = extra[5:]
        return tag


@dataclass(slots=True)
class Settlement:
    """Outcomes of one queue for one script call, which replies with the entries that were lost.

    Attributes:
        is_large: Whether it holds a single outcome that the server may refuse because of its size.
        is_asking: Whether its messages ask for something besides delivery.
    """

    queue: str
    outcomes: list[Outcome]
    is_large: bool
    is_asking: bool = False

    def command(self, keys: QueueKeys, consumer: bytes) -> Command:
        """The script call."""
        return _settle_command(keys, consumer, self.outcomes, self.is_asking)

    def tag_of(self, entry: bytes) -> bytes:
        """The tag of the delivery in this entry."""
        return ADMITTED + entry if self.is_asking else entry


def settlements(queue: str, outcomes: Sequence[Outcome]) -> Iterator[Settlement]:
    """The outcomes of a queue, split into as few script calls as the limits allow."""
    asking = [o for o in outcomes if o.delivery.tag[:1] == ADMITTED]
    if not asking:
        yield from _pages(queue, outcomes, is_asking=False)
        return
    yield from _pages(queue, asking, is_asking=True)
    yield from _pages(
        queue, [o for o in outcomes if o.delivery.tag[:1] != ADMITTED], is_asking=False
    )


def _pages(queue: str, outcomes: Sequence[Outcome], *, is_asking: bool) -> Iterator[Settlement]:
    page: list[Outcome] = []
    page_bytes, least = 0, _LEAST_BYTES_ASKING if is_asking else _LEAST_BYTES
    for outcome in outcomes:
        sent = len(outcome.body or b"") + len(outcome.info) + len(outcome.result or b"")
        if sent >= _LARGE_BYTES:
            yield Settlement(queue, [outcome], is_large=True, is_asking=is_asking)
            continue
        moved = sent + (len(outcome.delivery.body) if _moves_body(outcome, is_asking) else 0)
        if page and page_bytes + moved + least > _MOST_BYTES:
            yield Settlement(queue, page, is_large=False, is_asking=is_asking)
            page, page_bytes = [], 0
        page.append(outcome)
        page_bytes += moved + least
    if page:
        yield Settlement(queue, page, is_large=False, is_asking=is_asking)


def _moves_body(outcome: Outcome, is_asking: bool) -> bool:
    """Whether the server moves the body that it has."""
    if is_asking:
        return outcome.action is not Action.DONE or outcome.result is not None
    keeps_it = outcome.action in (Action.RETRY, Action.POSTPONE, Action.PARK)
    return outcome.action is Action.DEAD or (keeps_it and outcome.body is None)


def entry_of(delivery: Delivery) -> bytes:
    """The stream entry of a delivery, in whichever stream."""
    tag: bytes = delivery.tag
    return tag[1:] if tag[:1] == ADMITTED else tag


def enclosing(entries: Sequence[bytes]) -> tuple[bytes, bytes]:
    """A range that encloses all these stream entries.

    Entries are `<ms>-<number>`. Milliseconds have 13 digits until the year 2286, so entries sort as
    bytes; a bound without a number covers its whole millisecond. If a clock is wrong enough to
    break this, the scripts look up each entry separately.
    """
    return min(entries).partition(b"-")[0], max(entries).partition(b"-")[0]


def _settle_command(
    keys: QueueKeys, consumer: bytes, outcomes: Sequence[Outcome], is_asking: bool
) -> Command:
    entries: list[bytes] = []
    ids: list[str] = []
    asked: list[bytes] = []
    others: list[bytes | str | int] = []
    results: list[bytes] = []
    for outcome in outcomes:
        if outcome.action is Action.DONE and outcome.result is None:
            entries.append(entry_of(outcome.delivery))
            ids.append(outcome.delivery.id)
            if is_asking:
                asked.append(outcome.delivery.tag.asked)
        else:
            others += _other(outcome, keys, results)
    tags = [entry_of(outcome.delivery) for outcome in outcomes]
    script = SETTLE_ASKING if is_asking else SETTLE
    return script(
        (*keys[:6], *results),
        consumer,
        *enclosing(tags),
        len(entries),
        *entries,
        *ids,
        *asked,
        *others,
    )


def _other(
    outcome: Outcome, keys: QueueKeys, results: list[bytes]
) -> tuple[bytes | str | int, ...]:
    delivery = outcome.delivery
    parks = outcome.action is Action.PARK
    result_number = 0
    if outcome.result is not None and outcome.action in (Action.DONE, Action.DEAD):
        results.append(keys.result(delivery.id))
        result_number = len(results)
    return (
        outcome.action.value,
        entry_of(delivery),
        delivery.id,
        pause_number(outcome.pause) if parks else max(0, round(outcome.delay * 1000)),
        int(outcome.body is not None),
        outcome.body or b"",
        outcome.pause if parks else outcome.info,
        result_number,
        outcome.result or b"",
        max(1, round(outcome.result_ttl * 1000)),
    )

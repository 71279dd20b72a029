"""From outcomes to the commands that apply them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .. import Action, Delivery, Outcome
from ..parking import pause_number
from .keys import QueueKeys
from .scripts import SETTLE, SETTLE_ASKING, Command

#: What the outcomes of one script call may weigh, so that the server's other clients do not wait
#: long, unless one outcome alone weighs more. An outcome weighs what it makes the server move, and
#: a little.
_MOST_BYTES, _LEAST_BYTES = 1024 * 1024, 2048
#: Outcomes from this size on are sent each alone, since a server may refuse them: it takes no value
#: above its `proto-max-bulk-len`, which is a megabyte or more, and may limit its clients' buffers.
_LARGE_BYTES = 512 * 1024


#: How the tag of a delivery begins that stands in the stream of those that were admitted.
ADMITTED = b"*"


class AdmittedTag(bytes):
    """The tag of such a delivery, with what its message asks for, as `lines.lua` reads it."""

    asked: bytes = b""

    @classmethod
    def of(cls, entry: bytes, extra: bytes) -> AdmittedTag:
        """The tag for a stream entry that has this extra."""
        tag = cls(ADMITTED + entry)
        tag.asked = extra[5:]
        return tag


@dataclass(slots=True)
class Settlement:
    """Outcomes of one queue that one script call applies; it answers with the entries lost.

    Attributes:
        is_large: Whether it holds an outcome alone that a server may refuse for its size.
        is_asking: Whether it is about messages that ask for something.
    """

    queue: str
    outcomes: list[Outcome]
    is_large: bool
    is_asking: bool = False

    def command(self, keys: QueueKeys, consumer: bytes) -> Command:
        """The script call."""
        return _settle_command(keys, consumer, self.outcomes, self.is_asking)

    def tag_of(self, entry: bytes) -> bytes:
        """The tag of the delivery that stands in this entry."""
        return ADMITTED + entry if self.is_asking else entry


def settlements(queue: str, outcomes: Sequence[Outcome]) -> Iterator[Settlement]:
    """The outcomes of a queue, in as few script calls as they should be."""
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
    page_bytes = 0
    for outcome in outcomes:
        sent = len(outcome.body or b"") + len(outcome.info) + len(outcome.result or b"")
        if sent >= _LARGE_BYTES:
            yield Settlement(queue, [outcome], is_large=True, is_asking=is_asking)
            continue
        moved = sent + (len(outcome.delivery.body) if outcome.action is Action.DEAD else 0)
        if page and page_bytes + moved + _LEAST_BYTES > _MOST_BYTES:
            yield Settlement(queue, page, is_large=False, is_asking=is_asking)
            page, page_bytes = [], 0
        page.append(outcome)
        page_bytes += moved + _LEAST_BYTES
    if page:
        yield Settlement(queue, page, is_large=False, is_asking=is_asking)


def entry_of(delivery: Delivery) -> bytes:
    """The stream entry of a delivery, in whichever stream."""
    tag: bytes = delivery.tag
    return tag[1:] if tag[:1] == ADMITTED else tag


def enclosing(entries: Sequence[bytes]) -> tuple[bytes, bytes]:
    """A range of stream entries that holds all of these.

    Entries are `<ms>-<number>`, and the milliseconds have 13 digits until the year 2286, so their
    order is that of the bytes; a bound without a number means all of its millisecond. If a clock is
    that wrong, the scripts ask for each entry alone.
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

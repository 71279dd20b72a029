"""From outcomes to the commands that apply them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .. import Action, Outcome
from .keys import QueueKeys
from .scripts import SETTLE, Command

#: Outcomes of one script call: Lua takes up to 8,000 values at once.
_SETTLED_AT_ONCE = 1000


def settle_commands(
    keys: QueueKeys, consumer: bytes, outcomes: Sequence[Outcome]
) -> Iterator[Command]:
    """The script calls for outcomes of one queue; each answers with the entries that were lost."""
    for i in range(0, len(outcomes), _SETTLED_AT_ONCE):
        yield _settle_command(keys, consumer, outcomes[i : i + _SETTLED_AT_ONCE])


def enclosing(entries: Sequence[bytes]) -> tuple[bytes, bytes]:
    """A range of stream entries that holds all of these.

    Entries are `<ms>-<number>`, and the milliseconds have 13 digits until the year 2286, so their
    order is that of the bytes; a bound without a number means all of its millisecond. If a clock is
    that wrong, the scripts ask for each entry alone.
    """
    return min(entries).partition(b"-")[0], max(entries).partition(b"-")[0]


def _settle_command(keys: QueueKeys, consumer: bytes, outcomes: Sequence[Outcome]) -> Command:
    entries: list[bytes] = []
    ids: list[str] = []
    others: list[bytes | str | int] = []
    results: list[bytes] = []
    for outcome in outcomes:
        if outcome.action is Action.DONE and outcome.result is None:
            entries.append(outcome.delivery.tag)
            ids.append(outcome.delivery.id)
        else:
            others += _other(outcome, keys, results)
    tags = [outcome.delivery.tag for outcome in outcomes]
    return SETTLE(
        (*keys[:6], *results),
        consumer,
        *enclosing(tags),
        len(entries),
        *entries,
        *ids,
        *others,
    )


def _other(
    outcome: Outcome, keys: QueueKeys, results: list[bytes]
) -> tuple[bytes | str | int, ...]:
    delivery = outcome.delivery
    result_number = 0
    if outcome.result is not None and outcome.action in (Action.DONE, Action.DEAD):
        results.append(keys.result(delivery.id))
        result_number = len(results)
    return (
        outcome.action.value,
        delivery.tag,
        delivery.id,
        max(0, round(outcome.delay * 1000)),
        int(outcome.body is not None),
        outcome.body or b"",
        outcome.info,
        result_number,
        outcome.result or b"",
        max(1, round(outcome.result_ttl * 1000)),
    )

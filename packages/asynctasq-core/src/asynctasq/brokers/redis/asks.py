"""Packs what messages ask for besides delivery, as the scripts read it, and unpacks the answers.

A key is text without NUL, since `lines.lua` terminates it with one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgpack

from .. import KeyInUse, LimitKey, Outgoing, Policy, RateKey, UniqueKey

_NO_LIMIT = LimitKey("", 0)
_NO_RATE = RateKey("", 0.0, 0)
_NO_KEY = UniqueKey("")
_NONE = Policy()


def is_asking(message: Outgoing) -> bool:
    """Whether a message asks for anything; those that do not cost nothing."""
    return message.policy is not None or message.priority != 0


def packed(message: Outgoing) -> bytes:
    """What a message asks for, as `asked_by` in `lines.lua` reads it; empty if nothing."""
    if not is_asking(message):
        return b""
    policy = message.policy or _NONE
    limit, rate = policy.limit or _NO_LIMIT, policy.rate or _NO_RATE
    unique = policy.unique or _NO_KEY
    lasts_ms = 0 if unique.lasts_seconds is None else max(1, round(unique.lasts_seconds * 1000))
    asked = [
        message.priority,
        _key(policy.limit), limit.most,
        _key(policy.rate), rate.interval_seconds * 1000, rate.burst,
        _key(policy.unique), int(unique.until == "started"), lasts_ms, int(unique.replaces),
    ]  # fmt: skip
    # The server's msgpack has no bytes type; its strings may hold any bytes.
    data: bytes = msgpack.packb(asked, use_bin_type=False)
    return data


def _key(part: LimitKey | RateKey | UniqueKey | None) -> bytes:
    # The first byte tells an empty key from no key.
    if part is None:
        return b""
    return b"k" + part.key.encode().replace(b"\1", b"\1\1").replace(b"\0", b"\1\2")


def _name(key: bytes) -> str:
    return key[1:].replace(b"\1\2", b"\0").replace(b"\1\1", b"\1").decode("utf-8", "replace")


def in_use(reply: list[Any], limit: int) -> list[KeyInUse]:
    """The keys that `keys_in_use.lua` found, longest lines first."""
    now_ms, lines, holders, rates, keys = reply
    waiting: dict[tuple[str, bytes], int] = {}
    holding: dict[bytes, list[str]] = {}
    opens: dict[bytes, float] = {}
    for limit_key, rate_key, count in _rows(lines, 3):
        for kind, key in (("limit", limit_key), ("rate", rate_key)):
            if key:
                waiting[kind, key] = waiting.get((kind, key), 0) + count
    for key, holder in _rows(holders, 2):
        holding.setdefault(key, []).append(holder.decode("utf-8", "replace"))
    for key, used_up, at in _rows(rates, 3):
        if float(used_up) > float(now_ms):
            opens[key] = max(_number(at), float(now_ms)) / 1000
    limits = holding.keys() | {key for kind, key in waiting if kind == "limit"}
    rate_keys = opens.keys() | {key for kind, key in waiting if kind == "rate"}
    found = [
        *(
            KeyInUse("limit", _name(k), tuple(holding.get(k, ())), waiting.get(("limit", k), 0))
            for k in limits
        ),
        *(
            KeyInUse(
                "rate",
                _name(k),
                (),
                waiting.get(("rate", k), 0),
                opens.get(k, float(now_ms) / 1000),
            )
            for k in rate_keys
        ),
        *(
            KeyInUse("unique", _name(k), (holder.decode("utf-8", "replace"),))
            for k, holder in _rows(keys, 2)
        ),
    ]
    return sorted(found, key=lambda key: (-key.waiting, key.kind, key.key))[:limit]


def _number(text: bytes) -> float:
    """A number from untrusted text; 0, which is always in the past, if it is none."""
    try:
        return float(text)
    except ValueError:
        return 0.0


def _rows(values: list[Any], width: int) -> Iterable[tuple[Any, ...]]:
    return zip(*(values[i::width] for i in range(width)), strict=True)

"""What `asynctasq doctor` reports about a Redis server."""

from __future__ import annotations

import time

from ...errors import BrokerError, BrokerUnavailable
from .. import Finding
from .keys import Keys
from .server import Server

_OLDEST = (6, 2)
#: Clocks matter because `delay` follows the server's clock, but `at` the sender's.
_MOST_SKEW_SECONDS = 1.0


async def check_server(server: Server, keys: Keys) -> list[Finding]:
    """Check for whatever can lose messages or stop workers; each problem becomes a finding."""
    subject = server.address.name
    try:
        skew_seconds = await _skew_seconds(server, keys)
    except BrokerUnavailable as e:
        advice = "check redis.url (host, port, rediss:// for TLS) and that the server runs"
        return [Finding("error", subject, str(e), advice)]
    except BrokerError as e:
        return [Finding("error", subject, str(e), "correct the redis options or the ACL user")]
    findings = [Finding("ok", subject, "reachable"), _clock(subject, skew_seconds)]
    try:
        information = await _information(server, keys)
    except BrokerError as e:
        findings.append(
            Finding("warning", subject, f"INFO cannot be read: {e}", "grant +info to be checked")
        )
        return findings
    return [
        *findings,
        _version(subject, information),
        _eviction(subject, information),
        _persistence(subject, information),
        *_memory(subject, information),
    ]


async def _skew_seconds(server: Server, keys: Keys) -> float:
    before = time.time()
    seconds, microseconds = await server.call(keys.queues, (b"TIME",))
    return int(seconds) + int(microseconds) / 1e6 - (before + time.time()) / 2


async def _information(server: Server, keys: Keys) -> dict[str, str]:
    # INFO includes the memory policy, so CONFIG, which managed servers forbid, is not needed.
    text: bytes = await server.call(keys.queues, (b"INFO",))
    pairs = (line.partition(":") for line in text.decode().splitlines())
    return {name: value for name, _, value in pairs}


def _clock(subject: str, skew_seconds: float) -> Finding:
    if abs(skew_seconds) <= _MOST_SKEW_SECONDS:
        return Finding("ok", subject, f"clocks differ by {abs(skew_seconds):.2f} s")
    return Finding(
        "warning",
        subject,
        f"the server's clock is {skew_seconds:+.1f} s from this machine's",
        "synchronise both clocks (NTP): tasks sent with at(...) start early or late by as much",
    )


def _version(subject: str, information: dict[str, str]) -> Finding:
    if "valkey_version" in information:
        return Finding("ok", subject, f"Valkey {information['valkey_version']}")
    version = information.get("redis_version", "0.0")
    if tuple(int(part) for part in version.split(".")[:2]) >= _OLDEST:
        return Finding("ok", subject, f"Redis {version}")
    return Finding("error", subject, f"Redis {version} is too old", "use Redis 6.2 or later")


def _eviction(subject: str, information: dict[str, str]) -> Finding:
    policy = information.get("maxmemory_policy", "unknown")
    if policy == "noeviction":
        return Finding("ok", subject, "maxmemory-policy noeviction")
    limited = information.get("maxmemory", "0") != "0"
    return Finding(
        "error" if limited else "warning",
        subject,
        f"maxmemory-policy is {policy}: keys with queued tasks may be evicted",
        "set maxmemory-policy noeviction",
    )


def _persistence(subject: str, information: dict[str, str]) -> Finding:
    if information.get("aof_enabled") == "1":
        return Finding("ok", subject, "append-only file on")
    return Finding(
        "warning",
        subject,
        "no append-only file: tasks sent since the last snapshot are lost when the server dies",
        "set appendonly yes (appendfsync everysec loses at most a second)",
    )


def _memory(subject: str, information: dict[str, str]) -> list[Finding]:
    most = int(information.get("maxmemory", "0"))
    used = int(information.get("used_memory", "0"))
    if not most or used < 0.9 * most:
        return []
    return [
        Finding(
            "warning",
            subject,
            f"{used / most:.0%} of maxmemory is used; when it is full, dispatch fails",
            "raise maxmemory, or run more workers",
        )
    ]

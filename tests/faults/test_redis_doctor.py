"""What `asynctasq doctor` finds out about a Redis server."""

from __future__ import annotations

from typing import Any

from asynctasq import RedisConfig
from asynctasq.brokers import Finding
from asynctasq.brokers.redis.broker import RedisBroker

SERVERS = ("Redis", "Valkey")


async def findings(url: str, **options: Any) -> dict[str, Finding]:
    """By a word of their text; a finding without one of these words fails the lookup."""
    broker = RedisBroker(RedisConfig(url=url, timeout=1.0, **options))
    found = await broker.check()
    await broker.close()
    words = ("reach", "clock", "maxmemory-policy", "append-only", "is used", "login", *SERVERS)
    return {next(word for word in words if word in f.text): f for f in found}


async def test_a_safe_server_is_found_in_order(start_redis: Any) -> None:
    server = start_redis("--appendonly", "yes")
    found = await findings(server.url)
    assert found.keys() - SERVERS == {"reach", "clock", "maxmemory-policy", "append-only"}
    assert len(found) == 5
    assert {finding.level for finding in found.values()} == {"ok"}


async def test_settings_that_lose_tasks_are_found_with_advice(start_redis: Any) -> None:
    server = start_redis("--maxmemory-policy", "volatile-lru")
    with server.client() as client:
        client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.05))
    found = await findings(server.url)
    assert found["maxmemory-policy"].level == "error"
    assert "noeviction" in found["maxmemory-policy"].advice
    assert found["append-only"].level == "warning"
    assert "appendonly yes" in found["append-only"].advice
    assert found["is used"].level == "warning"


async def test_a_server_that_cannot_be_reached_is_a_finding() -> None:
    found = await findings("redis://127.0.0.1:1/0")
    assert [finding.level for finding in found.values()] == ["error"]
    assert found["reach"].advice


async def test_a_refused_login_is_a_finding_without_the_password(start_redis: Any) -> None:
    server = start_redis("--requirepass", "right", password="right")
    found = await findings(server.url, password="wrong-secret")
    assert found["login"].level == "error"
    assert "wrong-secret" not in str(found)

"""Every page on every broker, with something of each kind to show."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import asynctasq
import asynctasq.app
import httpx
import pytest
import redis.asyncio
from asynctasq import Worker, dispatch_many, pausing
from asynctasq.app import current
from asynctasq_dashboard import dashboard

from .. import servers
from . import shop

DRIVERS = ("memory", "sqlite", "redis", "postgres")


@pytest.fixture
def _driver(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    monkeypatch.setattr(asynctasq.app, "_current", None)
    options: dict[str, Any] = {"driver": request.param}
    with ExitStack() as stack:
        if request.param == "sqlite":
            options["sqlite"] = tmp_path / "queue.db"
        elif request.param == "redis":
            prefix = f"test-{uuid4().hex}"
            options["redis"] = {"url": servers.redis_url(), "key_prefix": prefix}
        elif request.param == "postgres":
            url = stack.enter_context(servers.postgres_database("asynctasq_page"))
            options["postgres"] = url
        asynctasq.init(options)
        yield


@pytest.fixture
async def visitor(_driver: None) -> AsyncIterator[httpx.AsyncClient]:
    application = dashboard(authorize=lambda request: True)
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.example") as visitor:
        yield visitor
    config = current().config
    await current().connections.close()
    if config.driver == "redis":
        async with redis.asyncio.Redis.from_url(servers.redis_url()) as client:
            async for key in client.scan_iter(f"*{config.broker.key_prefix}*", count=1000):
                await client.delete(key)


@pytest.mark.parametrize("_driver", DRIVERS, indirect=True)
async def test_every_page_shows_what_there_is(visitor: httpx.AsyncClient) -> None:
    await dispatch_many([shop.bill(7, "first"), shop.welcome("ada@example.com")])
    await Worker(queues=["invoices", "mail"], burst=True).run()
    await dispatch_many([shop.bill(7, "second"), shop.bill(7, "third"), shop.wave("x").delay(600)])
    await pausing.pause(queue="mail", by="somebody")
    shown = {
        "/": ("2 calls wait in", "queue &#39;mail&#39; is paused", "was given up in the last hour"),
        "/queues": ("invoices", "somebody", "none serves it"),
        "/calls": ("second", "third", "delayed"),
        "/calls?arguments=third": ("third",),
        "/dead": ("ConnectionError", "ValueError"),
        "/dead?by=one": ("first", "ada@example.com"),
        "/workers": ("nothing runs",),
        "/schedules": ("Schedules",),
        "/keys": ("limit", "tenant=7"),
    }
    for path, texts in shown.items():
        page = await visitor.get(path)
        assert page.status_code == 200, path
        for text in texts:
            assert text in page.text, (path, text)
    assert 'href="/call?queue=mail' in (await visitor.get("/dead?by=one")).text

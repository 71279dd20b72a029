"""Every page on every broker, with something of each kind to show."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import asynctasq
import asynctasq.app
import httpx
import pytest
import redis.asyncio
from asynctasq import Worker, dispatch_many, looking, pausing
from asynctasq.app import current
from asynctasq_dashboard import dashboard
from asynctasq_dashboard.actions import ACTIONS
from asynctasq_dashboard.pages import PAGES

from .. import servers
from ..redis_servers import free_port
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


#: What no page or form of ours sends: no text, of no encoding, too long, no place, no pattern.
GARBAGE = ("\0", "\udcff" + "é" * 600, "[[*", "running:%ff:x")

FIELDS = (
    *("queue", "task", "error", "reason", "arguments", "id", "name", "search"),
    *("state", "after", "offset", "by", "said", "n", "argument", "text"),
)


@pytest.mark.parametrize("_driver", DRIVERS, indirect=True)
async def test_garbage_is_answered_in_words(visitor: httpx.AsyncClient) -> None:
    await dispatch_many([shop.wave("ada@example.com"), shop.bill(7)])
    await Worker(queues=["invoices"], burst=True).run()
    before = {queue.name: queue for queue in await looking.queues()}
    await visitor.get("/")
    token = visitor.cookies["asynctasq_csrf"]
    headers = {"content-type": "application/x-www-form-urlencoded"}
    for garbage in GARBAGE:
        query = urlencode(dict.fromkeys(FIELDS, garbage), errors="surrogateescape")
        for page in PAGES:
            for more in ("", "&state=waiting&by=one"):
                answer = await visitor.get(f"{page.path}?{query}{more}")
                assert answer.status_code in (200, 400, 404), (page.path, garbage)
                assert "</html>" in answer.text
        for do in ACTIONS.keys() - {"retry-all", "delete-all"}:
            form = f"csrf={token}&do={do}&sure=yes&{query}"
            answer = await visitor.post("/do", content=form, headers=headers)
            assert answer.status_code in (303, 400), (do, garbage, answer.text)
    after = {queue.name: queue for queue in await looking.queues()}
    assert {name: after[name] for name in before} == before


async def test_a_broker_that_is_away_is_named_on_every_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asynctasq.app, "_current", None)
    url = f"redis://127.0.0.1:{free_port()}/0"
    asynctasq.init({"driver": "redis", "redis": {"url": url, "timeout": 0.05}})
    transport = httpx.ASGITransport(dashboard(authorize=lambda request: True))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.example") as visitor:
        for page in PAGES:
            answer = await visitor.get(page.path, params={"id": "x", "queue": "mail"})
            assert answer.status_code in (404, 503), page.path
            assert page.path == "/work" or "The broker cannot be asked" in answer.text
        token = visitor.cookies["asynctasq_csrf"]
        for do in ACTIONS:
            form = {"csrf": token, "do": do, "sure": "yes", "id": "x", "queue": "mail", "name": "x"}
            answer = await visitor.post("/do", data=form)
            assert answer.status_code == 503, do
            assert "The broker did not do it" in answer.text
    await current().connections.close()

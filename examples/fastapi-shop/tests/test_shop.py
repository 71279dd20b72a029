"""The shop without a server and without a worker: what it dispatches, and what that does."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import httpx
import pytest
from asynctasq.testing import Calls
from shop.main import app
from shop.models import create_tables, engine
from shop.tasks import CardRefused, charge, count_sales, send_receipt


@pytest.fixture
async def visitor() -> AsyncIterator[httpx.AsyncClient]:
    await create_tables()
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.example") as visitor:
        yield visitor
    await engine.dispose()


async def test_an_order_is_paid_and_its_receipt_sent_once(
    visitor: httpx.AsyncClient, asynctasq_calls: Calls
) -> None:
    answer = await visitor.post("/orders", json={"email": "ada@example.com", "amount": 20})
    address = f"/orders/{answer.json()['id']}"
    assert asynctasq_calls.one(charge)
    assert (await visitor.get(address)).json() == {"is_paid": False, "receipts": 0}
    await asynctasq_calls.run()
    assert asynctasq_calls.one(send_receipt)
    assert (await visitor.get(address)).json() == {"is_paid": True, "receipts": 1}


async def test_an_order_that_is_refused_stays_unpaid(
    visitor: httpx.AsyncClient, asynctasq_calls: Calls
) -> None:
    answer = await visitor.post("/orders", json={"email": "bob@example.com", "amount": 5000})
    with pytest.raises(CardRefused):
        await asynctasq_calls.run(86_400)
    shown = await visitor.get(f"/orders/{answer.json()['id']}")
    assert shown.json() == {"is_paid": False, "receipts": 0}
    assert not asynctasq_calls.of(send_receipt)


async def test_sales_are_counted_once_for_many_orders(
    visitor: httpx.AsyncClient, asynctasq_calls: Calls
) -> None:
    for _ in range(5):
        await visitor.post("/orders", json={"email": "ada@example.com", "amount": 1})
    assert len(asynctasq_calls.of(count_sales)) == 1


async def test_a_report_is_made_by_two_calls(
    visitor: httpx.AsyncClient, asynctasq_calls: Calls
) -> None:
    await visitor.post("/orders", json={"email": "eve@example.com", "amount": 7})
    await asynctasq_calls.run()
    answer = await visitor.post("/reports")
    address = f"/reports/{answer.json()['id']}"
    waiting = (await visitor.get(address)).json()
    assert (waiting["state"], waiting["done"]) == ("waiting", None)
    await asynctasq_calls.run()
    shown = (await visitor.get(address)).json()
    assert shown["state"] == "done"
    assert "eve@example.com;7\n" in shown["report"]


async def test_a_report_can_be_stopped(visitor: httpx.AsyncClient, asynctasq_calls: Calls) -> None:
    address = f"/reports/{(await visitor.post('/reports')).json()['id']}"
    assert (await visitor.delete(address)).json() == {"cancelled": True}
    await asynctasq_calls.run()
    assert (await visitor.get(address)).json()["state"] == "unknown"


async def test_nobody_sees_the_tasks_without_the_password(
    visitor: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await visitor.get("/tasks/")).status_code == 403
    monkeypatch.setitem(os.environ, "SHOP_PASSWORD", "geheim")
    assert (await visitor.get("/tasks/", headers={"cookie": "password=wrong"})).status_code == 403
    assert (await visitor.get("/tasks/", headers={"cookie": "password=geheim"})).status_code == 200

"""The shop over HTTP."""

from __future__ import annotations

import hmac
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asynctasq
from asynctasq import TaskStatus
from asynctasq_dashboard import dashboard
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field
from starlette.requests import Request

from .models import Customer, Order, Session, Statistics, create_tables
from .tasks import add_up_orders, charge, count_sales, write_report


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Tables and the broker; while developing, a worker too."""
    await create_tables()
    async with asynctasq.lifespan(worker=os.environ.get("SHOP_WORKER") == "1"):
        yield


app = FastAPI(title="Shop", lifespan=lifespan)


class NewOrder(BaseModel):
    """What a customer sends."""

    email: str = Field(max_length=200)
    amount: int = Field(gt=0)


@app.post("/orders", status_code=202)
async def order(new: NewOrder) -> dict[str, int]:
    """Take an order; it is paid in the background, once it is committed."""
    async with Session.begin() as session:
        customer = Customer(email=new.email)
        order = Order(customer=customer, amount=new.amount)
        session.add(order)
        await session.flush()
        await charge(order, customer.id).dispatch()
    await count_sales().delay(0.5).dispatch()
    return {"id": order.id}


@app.get("/orders/{order_id}")
async def show(order_id: int) -> dict[str, object]:
    """How an order stands."""
    async with Session() as session:
        found = await session.get(Order, order_id)
    if found is None:
        raise HTTPException(404)
    return {"is_paid": found.is_paid, "receipts": found.receipts}


@app.get("/statistics")
async def statistics() -> dict[str, int]:
    """What was sold."""
    async with Session() as session:
        found = await session.get(Statistics, 1)
    return {"orders": found.orders, "amount": found.amount} if found else {"orders": 0, "amount": 0}


@app.post("/reports", status_code=202)
async def report() -> dict[str, str]:
    """Have a report written; its address tells how far it is."""
    handle = await add_up_orders().then(write_report).dispatch()
    return {"id": handle.id}


@app.get("/reports/{report_id}")
async def show_report(report_id: str) -> dict[str, object]:
    """The report, or how far it is."""
    handle = write_report.handle(report_id)
    info = await handle.info()
    if info.state == TaskStatus.DONE:
        return {"state": info.state, "report": await handle.result()}
    told = await handle.parent.progress() if handle.parent is not None else None
    return {"state": info.state, "done": told.fraction if told else None, "reason": info.reason}


@app.delete("/reports/{report_id}")
async def cancel_report(report_id: str) -> dict[str, bool]:
    """Stop it, whichever of its calls is waiting or running."""
    handle = write_report.handle(report_id)
    await handle.info()  # which finds the call before it
    return {"cancelled": await handle.cancel(running=True)}


def may_see_tasks(request: Request) -> bool:
    """Only whoever knows the password; without one, nobody. Your application has its own login."""
    password = os.environ.get("SHOP_PASSWORD", "")
    given = request.cookies.get("password", "")
    return bool(password) and hmac.compare_digest(given.encode(), password.encode())


app.mount("/tasks", dashboard(authorize=may_see_tasks, link={Order: "/orders/{key}"}, title="Shop"))

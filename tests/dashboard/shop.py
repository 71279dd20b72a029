"""The application whose queues are looked at."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from asynctasq import Limit, Worker, task
from asynctasq.tasks.task import registry


@task(queue="invoices", max_attempts=1, limit=Limit(1, by="tenant"))
async def bill(tenant: int, number: str = "") -> None:
    if tenant == 7:
        raise ConnectionError(f"mail.example.com does not answer ({number})")


@task(queue="mail", max_attempts=1)
async def welcome(address: str) -> None:
    raise ValueError(f"no such address: {address}")


@task(queue="mail")
async def wave(address: str) -> None: ...


@task(cron="0 3 * * *")
async def clean_up() -> None: ...


@task(every=timedelta(days=30), queue="mail")
async def remind() -> None: ...


#: Registered only while a dashboard is tested: workers of other tests would make the calls of their
#: schedules.
TASKS = {task.name: registry.pop(task.name) for task in (bill, welcome, wave, clean_up, remind)}


def work() -> None:
    """Run everything that waits, in a worker that ends then."""
    asyncio.run(Worker(queues=["invoices", "mail", "default"], burst=True).run())

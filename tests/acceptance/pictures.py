"""The picture of `asynctasq status --watch` in the documentation: `hatch run pictures`.

A shop's worker runs some tasks, whose screen is drawn as the command draws it.
"""

from __future__ import annotations

import asyncio
import io
import re
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import asynctasq
from asynctasq import Worker, dispatch_many, progress, task
from asynctasq.app import current
from asynctasq.cli.queue_status import look, tables
from rich.console import Console
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

IMAGES = Path(__file__).parents[2] / "docs" / "images"

under_way = asyncio.Semaphore(0)


class Base(DeclarativeBase):
    """Where the session factory is set."""


class Order(Base):
    """Of the shop."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)


@task(name="shop.send_invoice", queue="invoices")
async def send_invoice(order: Order) -> None:
    """Send it, some day."""
    await progress(3 * order.id, 40, "pages drawn")
    under_way.release()
    await asyncio.Event().wait()


@task(name="shop.welcome", queue="mail")
async def welcome(address: str) -> None:
    """Wait for a worker that never comes."""


@task(name="shop.remind", queue="mail", every=timedelta(hours=1))
async def remind() -> None:
    """Remind customers."""


async def screen(folder: Path) -> str:
    """The screen as SVG."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{folder}/shop.db")
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    Base._asynctasq_session_factory = sessions
    asynctasq.init(driver="sqlite", sqlite=folder / "queue.db")
    app = current()
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with sessions() as session:
        session.add_all(orders := [Order(id=n) for n in (5, 8, 12)])
        await session.commit()
    await dispatch_many([send_invoice(order) for order in orders])
    await dispatch_many([welcome(f"user{n}@example.com").delay(600 * (n % 2)) for n in range(9)])
    worker = Worker(queues=["invoices"], concurrency=10, grace=0)
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(30):
        for _ in orders:
            await under_way.acquire()
        while not (status := await look(app, app.open_broker(), with_running=True)).schedules:
            await asyncio.sleep(0.01)  # until the worker has told of them
    console = Console(record=True, width=110, file=io.StringIO())
    console.print("[bold]$ asynctasq status --watch[/]\n")
    console.print(f"broker: {status.broker.replace(str(folder), '.asynctasq')}\n", highlight=False)
    for table in tables(status, {"invoices": -1.3, "mail": 2.1}):
        console.print(table)
    worker.stop()
    await running
    await engine.dispose()
    return console.export_svg(title="asynctasq", unique_id="status")


def main(images: Path) -> None:
    """Draw the picture."""
    with tempfile.TemporaryDirectory() as folder:
        drawn = asyncio.run(screen(Path(folder)))
    # No font from elsewhere: the reader's own will do.
    drawn = re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL)
    (images / "status-watch.svg").write_text(drawn)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES)

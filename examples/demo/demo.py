"""`hatch run demo:run`: an order goes to a queue as a reference and comes back as a fresh row.

Everything lives in a temporary folder: the shop's database, the queue's file, the worker's log.
Whatever is shown is also checked; the exit code is 0 only if all of it happened.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack
from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from asynctasq import TaskHandle
    from shop import Order

HERE = Path(__file__).parent
BATCH = 200
PATIENCE_SECONDS = 20.0

console = Console(width=min(Console().width, 100), highlight=False)


class Checks:
    """What the demo claims, each with whether it was so."""

    def __init__(self) -> None:
        self._rows: list[tuple[bool, str, str]] = []

    def note(self, holds: bool, claim: str, evidence: str) -> None:
        """Record one claim."""
        self._rows.append((holds, claim, evidence))

    @property
    def all_hold(self) -> bool:
        """Whether nothing failed."""
        return all(holds for holds, _, _ in self._rows)

    def table(self) -> Table:
        """The summary."""
        table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
        for holds, claim, evidence in self._rows:
            sign = Text("✓", "bold green") if holds else Text("✗", "bold red")
            table.add_row(sign, claim, Text(evidence, "dim"))
        return table


def an_order(number: int) -> Order:
    from shop import Order

    return Order(
        customer="Ada Lovelace",
        email="ada@old.example",
        phone="+44 20 7946 0958",
        street="12 St James's Square",
        city="London",
        postcode="SW1Y 4JH",
        country="United Kingdom",
        currency="GBP",
        total=Decimal("1843.00"),
        status="paid",
        placed_at=datetime(2026, 11, 22, 9, 30, tzinfo=UTC),
        items='[{"sku": "AE-1837", "name": "Analytical engine, mahogany", "quantity": 1}, '
        '{"sku": "PC-0024", "name": "Punched cards, blank, box of 24", "quantity": 3}, '
        '{"sku": "OIL-200", "name": "Whale oil, 200 ml", "quantity": 2}]',
        note=f"Order {number}: please leave it with the porter and ring twice.",
    )


def row_bytes(order: Order) -> int:
    """What the whole row would take on the queue."""
    columns = {c.name: getattr(order, c.name) for c in order.__table__.columns}
    return len(msgpack.packb(columns, default=str))


def queued_bytes(handle: TaskHandle[Any]) -> bytes:
    """The message as it stands in the queue's file."""
    with closing(sqlite3.connect(os.environ["ASYNCTASQ_SQLITE_PATH"])) as queue:
        (body,) = queue.execute("SELECT body FROM message WHERE id = ?", (handle.id,)).fetchone()
    return bytes(body)


def hex_dump(body: bytes, marked: bytes) -> Text:
    """16 bytes a line, with the reference in colour."""
    begin = body.find(marked)
    dump = Text()
    for at in range(0, len(body), 16):
        line = body[at : at + 16]
        dump.append(f"{at:04x}  ", "dim")
        cells = [(at + i, b) for i, b in enumerate(line)]
        for i, b in cells:
            dump.append(f"{b:02x} ", _style(i, begin, marked))
        dump.append("   " * (16 - len(line)) + " ")
        for i, b in cells:
            dump.append(chr(b) if 32 <= b < 127 else "·", _style(i, begin, marked))
        dump.append("\n")
    dump.rstrip()
    return dump


def _style(i: int, begin: int, marked: bytes) -> str:
    return "bold cyan" if begin <= i < begin + len(marked) else "dim"


def show_message(order: Order, handle: TaskHandle[Any], checks: Checks) -> None:
    body = queued_bytes(handle)
    reference = msgpack.packb({"__orm:sqlalchemy__": order.id, "__orm_class__": "shop.Order"})
    full = row_bytes(order)
    saved = 1 - len(reference) / full
    console.print(
        Panel(
            Group(
                hex_dump(body, reference),
                Text.assemble(
                    "\nthe reference: ",
                    (f"{len(reference)} bytes", "bold cyan"),
                    f"   the row it stands for: {full} bytes   saved: {saved:.0%}"
                    f"   whole message: {len(body)} bytes",
                ),
            ),
            title=f"send_receipt(<Order {order.id}>) on the queue",
            border_style="cyan",
        )
    )
    checks.note(
        reference in body and order.email.encode() not in body,
        "the queue holds a reference and no column",
        f"{len(reference)} of {full} bytes",
    )


@contextmanager
def worker(log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker in its own process, as a user starts it."""
    arguments = ["worker", "shop", "--concurrency", "100", "--lease", "1", "--log-level", "info"]
    command = [sys.executable, "-m", "asynctasq", *arguments]
    console.print(Text.assemble(("$ ", "dim"), (f"asynctasq {' '.join(arguments)}", "bold")))
    with log.open("ab") as output, subprocess.Popen(command, cwd=HERE, stderr=output) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


async def seed() -> list[Order]:
    from shop import Base, Session, engine

    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    orders = [an_order(n) for n in range(1, BATCH + 1)]
    async with Session() as session:
        session.add_all(orders)
        await session.commit()
    return orders


async def change_and_delete(changed: Order, deleted: Order) -> None:
    from shop import Session

    async with Session() as session:
        (await session.get_one(type(changed), changed.id)).email = "ada@new.example"
        await session.delete(await session.get_one(type(deleted), deleted.id))
        await session.commit()


async def reached(handle: TaskHandle[Any], status: str) -> bool:
    """Whether the call gets there in time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while await handle.status() != status:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.05)
    return True


async def watch_single_tasks(checks: Checks, handles: dict[str, TaskHandle[Any]]) -> None:
    email = await handles["send_receipt"].result(PATIENCE_SECONDS)
    checks.note(
        email == "ada@new.example", "the task saw the change made after its dispatch", email
    )
    attempt = await handles["charge"].result(PATIENCE_SECONDS)
    checks.note(attempt == 2, "a failed task was retried", f"attempt {attempt} succeeded")
    await show_dead_letters(checks, handles)


async def show_dead_letters(checks: Checks, handles: dict[str, TaskHandle[Any]]) -> None:
    from asynctasq import deadletters

    failing, gone = handles["print_label"], handles["ship"]
    checks.note(
        await reached(failing, "dead"),
        "a task without attempts left became a dead letter",
        "2 runs",
    )
    checks.note(
        await reached(gone, "dead"), "a task whose row is gone was not run", "no retries either"
    )
    table = Table(box=box.SIMPLE_HEAD, title="asynctasq dead list", title_justify="left")
    for column in ("task", "attempts", "reason", "error"):
        table.add_column(column, overflow="fold")
    for letter in await deadletters.list_dead():
        table.add_row(letter.task, str(letter.attempts), letter.reason, letter.error)
    console.print(table)


async def watch_batch(checks: Checks, orders: list[Order]) -> None:
    from asynctasq import dispatch_many
    from shop import figures, pack

    _, before, _ = await (await figures().dispatch()).result(PATIENCE_SECONDS)
    await dispatch_many([pack(order) for order in orders])
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        done, selects, _ = await (await figures().dispatch()).result(PATIENCE_SECONDS)
        if done >= len(orders) or time.monotonic() > deadline:
            break
    queries = selects - before
    console.print(
        f"{len(orders)} x pack(<Order>) in one dispatch_many: {done} ran, each with its own row, "
        f"for {queries} queries in all.\n"
    )
    checks.note(
        done == len(orders) and queries <= len(orders) / 5,
        "rows of many tasks are fetched together",
        f"{done} tasks, {queries} queries",
    )


async def watch_report(checks: Checks, orders: list[Order]) -> None:
    from asynctasq import Progress
    from shop import add_up, write_report

    last = await add_up(len(orders)).then(write_report).dispatch()
    first = last.parent
    assert first is not None
    seen = [f"{update.done} of {update.total}" async for update in first.watch()]
    report = await last.result(PATIENCE_SECONDS)
    console.print(f"add_up, as it went: {', '.join(seen)};  write_report, after it: {report!r}")
    whole = await first.progress() == Progress(len(orders), len(orders))
    checks.note(
        whole and len(seen) > 1 and report.startswith("report: 199 orders"),
        "a call told its progress and handed its result on",
        f"{len(seen)} updates",
    )


async def watch_schedule(checks: Checks) -> None:
    from asynctasq import schedules
    from shop import figures

    [scheduled] = await schedules()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        _, _, looks = await (await figures().dispatch()).result(PATIENCE_SECONDS)
        if looks or time.monotonic() > deadline:
            break
    calls = "1 call" if looks == 1 else f"{looks} calls"
    console.print(f"{scheduled.name}, {scheduled.timetable}: {calls} by now\n")
    checks.note(looks > 0, "a schedule made its calls; nothing else has to run", calls)


async def payments(order: Order) -> int:
    """How often the order was paid, as the shop's database has it."""
    from shop import Payment, Session
    from sqlalchemy import func, select

    async with Session() as session:
        paid = select(func.count()).where(Payment.order_id == order.id)
        count: int = (await session.scalars(paid)).one()
    return count


async def show_killed(
    checks: Checks, order: Order, process: subprocess.Popen[bytes]
) -> TaskHandle[str]:
    from shop import pay

    handle: TaskHandle[str] = await pay(order).dispatch()
    code = await asyncio.to_thread(process.wait, PATIENCE_SECONDS)
    paid, status = await payments(order), await handle.status()
    console.print(
        f"worker {process.pid}: INSERT INTO payments ...;  COMMIT;  SIGKILL\n"
        f"the shop's database: {paid} payment;  the queue: the call is {status}\n"
    )
    checks.note(
        (code, paid) == (-signal.SIGKILL, 1) and status in ("running", "waiting"),
        "a worker was killed right after its commit, before the queue knew",
        f"exit code {code}",
    )
    return handle


async def show_once(checks: Checks, order: Order, handle: TaskHandle[str], killed: int) -> None:
    result = await handle.result(PATIENCE_SECONDS)
    paid = await payments(order)
    console.print(f"the call came again; its result: {result!r};  payments: {paid}\n")
    checks.note(
        (result, paid) == (f"paid by worker {killed}", 1),
        "the atomic task's effect is there once, and its result too",
        f"{paid} payment",
    )


async def watch_workers(
    checks: Checks, orders: list[Order], handles: dict[str, TaskHandle[Any]], log: Path
) -> None:
    with worker(log) as first:
        await watch_single_tasks(checks, handles)
        console.print(Rule("4  Many at once", align="left"))
        await watch_batch(checks, orders)
        console.print(Rule("5  A chain with its progress, and a schedule", align="left"))
        await watch_report(checks, orders)
        await watch_schedule(checks)
        console.print(Rule("6  The worker is killed in the worst moment", align="left"))
        handle = await show_killed(checks, orders[3], first)
    console.print(Rule("7  Another worker gets the same call", align="left"))
    with worker(log) as second:
        await show_once(checks, orders[3], handle, first.pid)
        second.send_signal(signal.SIGTERM)
        code = second.wait(PATIENCE_SECONDS)
        checks.note(code == 0, "the worker ended cleanly on SIGTERM", f"exit code {code}")


async def tell() -> Checks:
    from shop import charge, engine, print_label, send_receipt, ship

    checks = Checks()
    orders = await seed()
    deleted = orders.pop()
    console.print(Rule("1  An order goes on the queue; no worker is running yet", align="left"))
    handles: dict[str, TaskHandle[Any]] = {
        "send_receipt": await send_receipt(orders[0]).dispatch(),
        "charge": await charge(orders[1]).dispatch(),
        "print_label": await print_label(orders[2]).dispatch(),
        "ship": await ship(deleted).dispatch(),
    }
    show_message(orders[0], handles["send_receipt"], checks)

    console.print(
        Rule("2  Before it runs, its email changes, and another is deleted", align="left")
    )
    await change_and_delete(orders[0], deleted)
    console.print("UPDATE orders SET email = 'ada@new.example' ...;  DELETE FROM orders ...\n")

    console.print(Rule("3  A worker starts, in a process of its own", align="left"))
    log = Path(os.environ["ASYNCTASQ_SQLITE_PATH"]).with_name("worker.log")
    try:
        await watch_workers(checks, orders, handles, log)
    finally:
        if not checks.all_hold:
            console.print(Panel(log.read_text(), title="the workers' log", border_style="red"))
    await engine.dispose()
    return checks


def main() -> int:
    """Run the demo; the exit code."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="asynctasq-demo-") as folder:
        os.environ["SHOP_DATABASE"] = f"{folder}/shop.db"
        os.environ["ASYNCTASQ_DRIVER"] = "sqlite"
        os.environ["ASYNCTASQ_SQLITE_PATH"] = f"{folder}/queue.db"
        checks = asyncio.run(tell())
    console.print(Rule(f"Summary, after {time.monotonic() - began:.1f} s", align="left"))
    console.print(checks.table())
    return 0 if checks.all_hold else 1


if __name__ == "__main__":
    sys.exit(main())

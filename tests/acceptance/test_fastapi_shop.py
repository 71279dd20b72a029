"""The example with FastAPI: its own tests, and the shop behind a real server."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from .conftest import ROOT, Place, clean_environment, eventually, finished

SHOP = ROOT / "examples" / "fastapi-shop"


def test_its_own_tests_pass(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(SHOP)]
    finished(
        subprocess.run(
            [*command, "-c", str(SHOP / "pytest.ini")],
            cwd=tmp_path,
            env={**clean_environment(), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    )


@pytest.fixture
def shop(place: Place) -> Place:
    """Where the shop runs, with a database and a queue of its own."""
    place.settings |= {
        "PYTHONPATH": str(SHOP),
        "PYTHONDONTWRITEBYTECODE": "1",
        "SHOP_DATABASE": f"sqlite+aiosqlite:///{place.path}/shop.db",
        "SHOP_PASSWORD": "geheim",
    }
    return place


@contextmanager
def serving(shop: Place, **settings: str) -> Iterator[httpx.Client]:
    """The shop on a port of its own, and a visitor; it has to end by itself when it is told to."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        command = [sys.executable, "-m", "uvicorn", "shop.main:app", "--fd", str(listener.fileno())]
        with (shop.path / "log").open("ab") as log:
            server = subprocess.Popen(
                command,
                cwd=shop.path,
                env=shop.environment | settings,
                stdout=log,
                stderr=log,
                pass_fds=[listener.fileno()],
            )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as visitor:
            yield visitor
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) in (0, -signal.SIGTERM), shop.log()
    finally:
        server.kill()
        server.wait()


def are_settled(visitor: httpx.Client, orders: Sequence[int]) -> bool:
    settled = {"is_paid": True, "receipts": 1}
    return all(visitor.get(f"/orders/{order}").json() == settled for order in orders)


def sell(visitor: httpx.Client, count: int) -> list[int]:
    answers = [
        visitor.post("/orders", json={"email": f"{n}@example.com", "amount": 10})
        for n in range(count)
    ]
    return [answer.json()["id"] for answer in answers]


def test_one_process_serves_and_works_while_developing(shop: Place) -> None:
    with serving(shop, SHOP_WORKER="1") as visitor:
        orders = sell(visitor, 5)
        eventually(lambda: are_settled(visitor, orders), 60)
        sold = {"orders": 5, "amount": 50}
        eventually(lambda: visitor.get("/statistics").json() == sold, 60)
        assert visitor.get("/tasks/").status_code == 403
        page = visitor.get("/tasks/workers", headers={"cookie": "password=geheim"})
        assert page.status_code == 200
        assert "payments" in page.text


def test_a_worker_beside_the_server_pays_and_the_dashboard_shows_what_was_refused(
    shop: Place,
) -> None:
    with serving(shop) as visitor:
        orders = sell(visitor, 3)
        refused = visitor.post("/orders", json={"email": "x@example.com", "amount": 5000})
        with shop.start("worker", "shop.tasks"):
            eventually(lambda: are_settled(visitor, orders), 60)
        visitor.cookies["password"] = "geheim"
        page = visitor.get("/tasks/")
        assert "payments" in page.text
        assert visitor.get(f"/orders/{refused.json()['id']}").json()["is_paid"] is False
        schedules = visitor.get("/tasks/schedules")
        assert "count_sales_now_and_then" in schedules.text

"""The example with Django: its own tests, and the shop through `manage.py`."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from .conftest import ROOT, Place, eventually, finished

SHOP = ROOT / "examples" / "django-shop"


@pytest.fixture
def shop(place: Place) -> Place:
    """Where the shop runs, with a database and a queue of its own."""
    place.settings |= {
        "PYTHONDONTWRITEBYTECODE": "1",
        "SHOP_DATABASE": str(place.path / "shop.db"),
        "SHOP_TEST_DATABASE": str(place.path / "test.db"),
    }
    if place.settings["ASYNCTASQ_DRIVER"] == "sqlite":
        place.settings["ASYNCTASQ_SQLITE_PATH"] = str(place.path / "queue.db")
    return place


def manage(shop: Place, *arguments: str) -> str:
    """Run `manage.py` to its end; what it printed."""
    return finished(
        subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=SHOP,
            env=shop.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=110,
        )
    )


@contextmanager
def running(shop: Place, *arguments: str) -> Iterator[None]:
    """Run `manage.py` meanwhile."""
    with (shop.path / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "manage.py", *arguments],
            cwd=SHOP,
            env=shop.environment,
            stdout=log,
            stderr=log,
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def test_its_own_tests_pass(shop: Place) -> None:
    manage(shop, "test")


def test_its_migrations_are_what_its_models_say(shop: Place) -> None:
    manage(shop, "makemigrations", "--check", "--dry-run")


def asked(address: str, new: object = None) -> Any:
    data = None if new is None else json.dumps(new).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, data=data, headers=headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def are_settled(site: str, orders: Sequence[int]) -> bool:
    settled = {"is_paid": True, "receipts": 1}
    return all(asked(f"{site}/orders/{order}/") == settled for order in orders)


def test_a_worker_beside_the_server_pays(shop: Place) -> None:
    manage(shop, "migrate")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    site = f"http://127.0.0.1:{port}"
    with running(shop, "runserver", "--noreload", str(port)):
        eventually(lambda: _answers(port), 60)
        new = {"email": "ada@example.com", "amount": 10}
        orders = [asked(f"{site}/orders/", new)["id"] for _ in range(3)]
        with running(shop, "asynctasq", "worker"):
            eventually(lambda: are_settled(site, orders), 60)


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0

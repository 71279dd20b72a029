"""The pictures of the dashboard in the documentation: `hatch run pictures`.

Fills a queue with an hour of a shop whose mail server does not answer to one tenant's invoices, and
takes what a browser shows of it.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
import tempfile
from pathlib import Path
from time import time

import asynctasq
from asynctasq import Worker, dispatch_many_sync
from asynctasq.events import RunFailed, RunSucceeded
from asynctasq.history import MINUTES, Recording
from asynctasq.looking import run_sync
from asynctasq_dashboard import dashboard

from . import shop
from .browser import Browser
from .conftest import Server

IMAGES = Path(__file__).parents[2] / "docs" / "images"

#: Name of the file, page, theme, width, height.
PICTURES = (
    ("dashboard-overview.png", "/", "light", 1100, 940),
    ("dashboard-dead.png", "/dead", "dark", 1100, 590),
)


def main() -> None:
    """Take the pictures."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        sys.exit("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    with tempfile.TemporaryDirectory() as folder:
        asynctasq.init(driver="sqlite", sqlite=Path(folder) / "shop.db")
        fill()
        application = dashboard(authorize=lambda request: True, title="Shop")
        with Server(application) as site, Browser.started(program, driver) as browser:
            browser.site = site
            for name, page, theme, width, height in PICTURES:
                browser.chrome.set_window_size(width, height)
                browser.chrome.execute_cdp_cmd(
                    "Emulation.setEmulatedMedia",
                    {"features": [{"name": "prefers-color-scheme", "value": theme}]},
                )
                browser.open(page)
                browser.until(lambda: browser.all("tbody tr"))
                browser.chrome.save_screenshot(str(IMAGES / name))


def fill() -> None:
    """An hour of the shop, and what has become of it."""
    dispatch_many_sync(shop.bill(7, f"2026-{n:04}") for n in range(23))
    dispatch_many_sync(shop.welcome(f"user{n}@exmaple.com") for n in range(6))
    asyncio.run(Worker(queues=["invoices", "mail"], burst=True).run())
    dispatch_many_sync(shop.bill(7, f"2026-{n:04}") for n in range(23, 31))
    dispatch_many_sync(shop.wave(f"user{n}@example.com").delay(600) for n in range(12))
    run_sync(_tell_of_an_hour())


async def _tell_of_an_hour() -> None:
    chance = random.Random(7)
    recording = Recording()
    for back in range(1, MINUTES):
        at = time() - 60 * back
        trouble = max(0.0, 1 - abs(back - 14) / 14)
        for task, queue, runs, late in (
            (shop.bill.name, "invoices", 18, 0.4 + 130 * trouble),
            (shop.wave.name, "mail", 30, 0.3),
        ):
            for _ in range(round(runs * chance.uniform(0.7, 1.3))):
                began = at - chance.uniform(0.05, 0.4)
                due = began - chance.uniform(0.2, 1) * late
                said = {
                    "at": at, "id": "-", "task": task, "queue": queue,
                    "enqueued_at": due, "started_at": began,
                }  # fmt: skip
                is_failure = queue == "invoices" and chance.random() < 0.5 * trouble
                if is_failure:
                    recording.note(RunFailed(**said, will_retry=chance.random() < 0.8))  # type: ignore[arg-type]
                else:
                    recording.note(RunSucceeded(**said))  # type: ignore[arg-type]
    await recording.write()


if __name__ == "__main__":
    main()

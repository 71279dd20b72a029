"""Each page and each action, in a browser."""

from __future__ import annotations

import asyncio

import pytest
from asynctasq import Worker, dispatch_many_sync, schedules
from asynctasq.app import current
from asynctasq.looking import queues, run_sync
from selenium.webdriver.remote.webelement import WebElement

from . import shop
from .browser import TAB, Browser


def counts(queue: str) -> tuple[int, int, int]:
    """How many are waiting, delayed and dead."""
    for stats in run_sync(queues()):
        if stats.name == queue:
            return stats.waiting, stats.delayed, stats.dead
    return 0, 0, 0


def rows(browser: Browser, count: int) -> list[WebElement]:
    """The rows of the page's table, once there are so many."""
    browser.until(lambda: len(browser.all("tbody tr")) == count)
    return browser.all("tbody tr")


@pytest.fixture
def failures(site: str) -> None:
    """Some dead letters of two kinds."""
    dispatch_many_sync(shop.bill(7, f"2026-{n}") for n in range(3))
    dispatch_many_sync(shop.welcome(f"user{n}@example.com") for n in range(2))
    shop.work()


@pytest.fixture
def scheduled(site: str) -> None:
    """What a worker has kept of the schedules of the application."""

    async def keep() -> None:
        worker = Worker(queues=["nothing"])
        running = asyncio.create_task(worker.run())
        async with asyncio.timeout(60):
            while len(await schedules()) < 2:
                await asyncio.sleep(0.05)
        worker.stop()
        await running

    asyncio.run(keep())


def test_an_empty_application_is_calm(browser: Browser) -> None:
    browser.open()
    browser.until_text("Nothing seems to be wrong.")
    browser.until_text("No queues yet.")
    for path, said in (
        ("/queues", "No queues yet."),
        ("/dead", "No dead letters. All is well."),
        ("/dead?by=one", "No dead letters. All is well."),
        ("/workers", "No worker is alive: nothing runs."),
        ("/schedules", "No schedules."),
        ("/keys", "No key is in use."),
    ):
        browser.open(path)
        assert said in browser.text


def test_the_overview_tells_of_the_last_hour(browser: Browser, failures: None) -> None:
    dispatch_many_sync(shop.wave(str(n)) for n in range(5))
    shop.wave("x").on_queue("nobodys").dispatch_sync()
    shop.work()
    browser.open()
    browser.until_text("1 call waits in 'nobodys', which no worker serves")
    browser.until_text(f"3 calls of {shop.bill.name} were given up in the last hour")
    row = browser.row(shop.wave.name).text.split()
    assert row[:3] == [shop.wave.name, "mail", "5"]
    assert len(browser.all("svg[role=img]")) == 2
    titles = [each.get_attribute("textContent") or "" for each in browser.all("svg title")]
    assert (
        any("5 succeeded, 0 failed and retried, 5 given up" in title for title in titles)
        or len(titles) > 2
    )  # the minute may have passed meanwhile
    browser.press("3 calls of")
    assert browser.path.startswith("/dead?task=")


def test_a_page_follows_what_happens(browser: Browser) -> None:
    browser.open("/queues")
    browser.until(lambda: browser.one("#live-switch").text == "Live")
    shop.wave("x").dispatch_sync()
    browser.until_text("mail")
    browser.press("Live")
    assert browser.one("#live-switch").text == "Not live"
    browser.open("/queues")
    assert browser.one("#live-switch").text == "Not live"
    browser.press("Not live")
    shop.wave("x").on_queue("later").dispatch_sync()
    browser.until_text("later")


def test_a_page_does_not_move_under_a_hand_that_selects(browser: Browser, failures: None) -> None:
    browser.open("/dead?by=one")
    browser.one("tbody input[name=id]").click()
    shop.welcome("new@example.com").dispatch_sync()
    shop.work()
    browser.run(
        "const s = new EventSource('/dead?by=one&live=1');"
        "s.addEventListener('content', (e) => {"
        " if (e.data.includes('new@example.com')) { window.seen = true; s.close(); } });"
    )
    browser.until(lambda: browser.run("return window.seen"))
    assert browser.run("return document.querySelectorAll('tbody input:checked').length") == 1
    browser.one("tbody input:checked").click()
    browser.until_text("new@example.com")


def test_dead_letters_are_grouped_filtered_and_looked_at(browser: Browser, failures: None) -> None:
    browser.open("/dead")
    assert browser.row(shop.bill.name).text.startswith("3 ")
    assert browser.row(shop.welcome.name).text.startswith("2 ")
    browser.press("3", browser.row(shop.bill.name))
    rows(browser, 3)
    browser.press("Clear")
    browser.fill("arguments", "user1@")
    browser.press("Filter")
    (row,) = rows(browser, 1)
    assert "address='user1@example.com'" in row.text
    browser.press(shop.welcome.name, row)
    browser.until_text("no such address: user1@example.com")
    browser.until(lambda: "raise ValueError" in browser.one("pre").text)
    for part in ("Dispatched", "Run 1 time", "Given up"):
        assert part in browser.one(".story").text


def test_one_call_is_retried_and_deleted(browser: Browser, failures: None) -> None:
    browser.open("/dead?by=one&queue=invoices")
    browser.press(shop.bill.name)
    address = browser.path
    browser.press("Retry")
    browser.until_text("Put 1 back on their queues.")
    assert counts("invoices") == (1, 0, 2)
    browser.open(address)
    browser.until_text("Waiting")
    browser.open("/dead?by=one&queue=invoices")
    browser.press(shop.bill.name)
    browser.press("Delete")
    browser.until_text("Delete 1 dead letter for ever?")
    browser.press("No, go back")
    assert counts("invoices") == (1, 0, 2)
    browser.press(shop.bill.name)
    browser.press("Delete")
    browser.press("Yes, do it")
    browser.until_text("Deleted 1.")
    assert counts("invoices") == (1, 0, 1)


def test_the_selected_are_retried_or_deleted(browser: Browser, failures: None) -> None:
    browser.open("/dead?by=one")
    browser.one("input[data-all]").click()
    assert browser.run("return document.querySelectorAll('tbody input:checked').length") == 5
    browser.one("input[data-all]").click()
    for box in browser.all("tbody input[name=id]")[:2]:
        box.click()
    browser.press("Retry selected")
    browser.until_text("Put 2 back on their queues.")
    browser.one("tbody input[name=id]").click()
    browser.press("Delete selected")
    browser.press("Yes, do it")
    browser.until_text("Deleted 1.")
    assert sum(counts(queue)[2] for queue in ("invoices", "mail")) == 2


def test_a_group_is_retried_and_another_deleted(browser: Browser, failures: None) -> None:
    browser.open("/dead")
    browser.press("Retry", browser.row(shop.bill.name))
    browser.until_text("Put 3 back on their queues.")
    assert counts("invoices") == (3, 0, 0)
    browser.press("Delete", browser.row(shop.welcome.name))
    browser.until_text("Delete all dead letters with task")
    browser.press("Yes, do it")
    browser.until_text("Deleted 2.")
    assert counts("mail") == (0, 0, 0)


def test_many_are_retried_with_their_progress(browser: Browser) -> None:
    dispatch_many_sync(shop.welcome(str(n)) for n in range(6000))
    shop.work()
    browser.open("/dead")
    browser.press("Retry all")
    browser.until(
        lambda: (
            "Done: 6 000." in browser.text.replace("\u202f", " ") or "Put 6000 back" in browser.text
        )
    )
    assert counts("mail") == (6000, 0, 0)
    browser.open("/work?id=nobody-knows")
    browser.until_text("does no such work")


def test_a_queue_is_purged_after_a_question(browser: Browser) -> None:
    dispatch_many_sync(shop.wave(str(n)) for n in range(3))
    shop.wave("later").delay(3600).dispatch_sync()
    shop.bill(1).dispatch_sync()
    browser.open("/queues")
    browser.fill("search", "MAI")
    browser.press("Search")
    (row,) = rows(browser, 1)
    browser.press("Purge", row)
    browser.until_text("Delete everything waiting or delayed in the queue 'mail'?")
    assert counts("mail") == (3, 1, 0)
    browser.press("Yes, do it")
    browser.until_text("Deleted 4 calls that were waiting or delayed.")
    assert counts("mail") == (0, 0, 0)
    assert counts("invoices") == (1, 0, 0)


def test_schedules_are_run_paused_and_resumed(browser: Browser, scheduled: None) -> None:
    browser.open("/schedules")
    row = shop.remind.name
    browser.press("Run now", browser.row(row))
    browser.until_text("Made the call ")
    assert counts("mail") == (1, 0, 0)
    browser.press("Pause", browser.row(row))
    browser.until(lambda: "paused" in browser.row(row).text)
    browser.press("Resume", browser.row(row))
    browser.until(lambda: "paused" not in browser.row(row).text)
    assert "0 3 * * *" in browser.row(shop.clean_up.name).text


def test_workers_are_shown_while_they_live(browser: Browser) -> None:
    from asynctasq.brokers import ConsumerOptions, WorkerInfo

    async def show() -> None:
        info = WorkerInfo("w", "host-7", 4711, ("mail", "invoices"), 20, 0.0, is_blocked=True)
        consumer = current().open_broker().consumer(ConsumerOptions(info, info.queues))
        await consumer.start()
        await asyncio.to_thread(consumer.renew, [])
        await asyncio.to_thread(look)
        await consumer.stop()

    def look() -> None:
        browser.open("/workers")
        row = browser.row("host-7").text
        for part in ("4711", "mail, invoices", "0 of 20", "a task blocks its event loop"):
            assert part in row
        browser.open()
        browser.until_text("a task blocks the event loop of host-7, process 4711")

    asyncio.run(show())


def test_keys_say_what_stands_in_line(browser: Browser) -> None:
    dispatch_many_sync(shop.bill(n // 3) for n in range(6))
    browser.open("/keys?queue=invoices")
    lines = [row.text for row in rows(browser, 2)]
    assert all("limit" in line and "tenant=" in line for line in lines)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_themes_have_enough_contrast(browser: Browser, failures: None, theme: str) -> None:
    browser.chrome.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": theme}]},
    )
    for path in ("/", "/queues", "/dead", "/dead?by=one", "/workers", "/schedules"):
        browser.open(path)
        assert browser.run(CONTRASTS) == [], path
    other = {"light": "dark", "dark": "light"}[theme]
    while browser.one("#theme-switch").text != f"Theme: {other}":
        browser.press("Theme")
    browser.open()
    assert browser.one("#theme-switch").text == f"Theme: {other}"
    assert browser.run("return getComputedStyle(document.documentElement).colorScheme") == other
    assert browser.run(CONTRASTS) == []
    while browser.one("#theme-switch").text != "Theme: system":
        browser.press("Theme")
    browser.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


#: Texts whose colour is too near to that behind them, by the rule of WCAG 2 (AA).
CONTRASTS = """
const light = (c) => {
  const [r, g, b] = c.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const parts = (text) => text.match(/[\\d.]+/g).map(Number);
const behind = (element) => {
  for (let each = element; each; each = each.parentElement) {
    const found = parts(getComputedStyle(each).backgroundColor);
    if (found.length === 3 || found[3] === 1) return found.slice(0, 3);
  }
  return [255, 255, 255];
};
return [...document.querySelectorAll("body *")].filter((each) =>
  [...each.childNodes].some((node) => node.nodeType === 3 && node.data.trim()) &&
  each.checkVisibility() && !each.closest("svg")
).filter((each) => {
  const a = light(parts(getComputedStyle(each).color).slice(0, 3)), b = light(behind(each));
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5;
}).map((each) => each.outerHTML.slice(0, 120));
"""


def test_everything_is_reached_with_the_keyboard(browser: Browser, failures: None) -> None:
    browser.open("/dead")
    reached: list[str] = []
    for _ in range(40):
        browser.chrome.switch_to.active_element.send_keys(TAB)
        name = browser.run(
            "const e = document.activeElement; return e === document.body ? '' :"
            " (e.getAttribute('aria-label') || e.labels?.[0]?.textContent || e.textContent).trim()"
        )
        reached.append(str(name))
    assert reached[0] == "Skip to the content"
    for name in ("Queues", "Queue", "Filter", "One by one", "Retry all"):
        assert name in reached
    assert f"Retry ConnectionError of {shop.bill.name}" in [" ".join(r.split()) for r in reached]


def test_every_field_and_button_has_a_name(browser: Browser, failures: None) -> None:
    for path in ("/", "/queues", "/dead", "/dead?by=one", "/workers", "/schedules", "/keys"):
        browser.open(path)
        nameless = browser.run(
            "return [...document.querySelectorAll("
            "'input:not([type=hidden]), button, a, svg, meter, progress')]"
            ".filter((e) => !(e.getAttribute('aria-label') || e.labels?.length ||"
            " e.textContent.trim())).map((e) => e.outerHTML)"
        )
        assert nameless == [], path
        assert len(browser.all("h1")) == 1
        assert browser.run("return document.documentElement.lang") == "en"


@pytest.mark.parametrize("path", ["/", "/queues", "/dead", "/dead?by=one", "/schedules", "/keys"])
def test_narrow_screens_need_not_be_scrolled_sideways(
    browser: Browser, failures: None, path: str
) -> None:
    shop.wave("x").on_queue("a-queue-with-a-very-long-name-" * 5).dispatch_sync()
    browser.chrome.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True},
    )
    try:
        browser.open(path)
        assert browser.run("return document.documentElement.scrollWidth") == 360
        assert browser.run(
            "return [...document.querySelectorAll('.wide')]"
            ".every((e) => e.scrollWidth <= e.clientWidth)"
        )
    finally:
        browser.chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_without_scripts_everything_can_be_read_and_done(browser: Browser, failures: None) -> None:
    browser.chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.open("/dead")
        browser.press("3", browser.row(shop.bill.name))
        browser.all("tbody input[name=id]")[0].click()
        browser.press("Retry selected")
        browser.until_text("Put 1 back on their queues.")
    finally:
        browser.chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_calls_are_listed_by_state_searched_and_cancelled(browser: Browser) -> None:
    dispatch_many_sync(shop.wave(f"user{n}@example.com") for n in range(3))
    shop.bill(5).delay(3600).dispatch_sync()
    browser.open("/calls")
    rows(browser, 4)
    browser.press("Delayed")
    rows(browser, 1)
    browser.until_text("tenant=5")
    browser.press("All")
    browser.fill("arguments", "user1@")
    browser.press("Filter")
    rows(browser, 1)
    browser.press(shop.wave.name)
    browser.until_text("Waiting")
    browser.press("Cancel")
    browser.until_text("If it is running, it will be ended.")
    browser.press("Yes, do it")
    browser.until_text("Cancelled.")
    assert counts("mail") == (2, 0, 0)
    browser.open("/calls?after=nowhere")
    browser.until_text("There is no such place in this list.")


def test_queues_and_tasks_are_paused_and_resumed(browser: Browser, failures: None) -> None:
    shop.wave("x").dispatch_sync()
    browser.open("/queues")
    browser.press("Pause", browser.row("invoices"))
    browser.until_text("the queue")
    browser.open()
    browser.until_text("queue 'invoices' is paused for")
    browser.press("queue 'invoices' is paused")
    browser.press("Resume")
    browser.until_text("Resumed.")
    browser.open("/dead?by=one&queue=mail")
    browser.press(shop.welcome.name)
    browser.press("Pause this task on this queue")
    browser.until_text("Paused.")
    assert shop.welcome.name in browser.row("the dashboard, from 127.0.0.1").text
    shop.welcome("late@example.com").dispatch_sync()
    shop.work()
    assert counts("mail")[2] == 2
    browser.press("Resume", browser.row(shop.welcome.name))
    browser.until_text("Resumed.")
    shop.work()
    assert counts("mail")[2] == 3


def test_a_task_is_paused_for_one_tenant_alone(browser: Browser, failures: None) -> None:
    browser.open("/dead?by=one&queue=invoices")
    browser.press(shop.bill.name)
    browser.until(lambda: browser.path.startswith("/call"))
    browser.fill("argument", "no_such")
    browser.fill("text", "7")
    browser.press("Pause this task")
    browser.until_text("It cannot be done:")
    browser.chrome.back()
    browser.fill("argument", "tenant")
    browser.fill("text", "7")
    browser.press("Pause this task")
    browser.until_text("(tenant=7)")
    dispatch_many_sync([shop.bill(7), shop.bill(8)])
    shop.work()
    assert counts("invoices")[2] == 3
    browser.press("Resume", browser.row("(tenant=7)"))
    browser.until_text("Resumed.")
    shop.work()
    assert counts("invoices")[2] == 4

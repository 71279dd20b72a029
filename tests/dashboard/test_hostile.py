"""What messages, workers and schedules say of themselves is text on every page, whatever it is."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import msgpack
import pytest
from asynctasq import Worker, schedule, task
from asynctasq.app import current
from asynctasq.brokers import (
    Action,
    Consumer,
    ConsumerOptions,
    LimitKey,
    Outcome,
    Outgoing,
    Policy,
    WorkerInfo,
)
from asynctasq.wire.message import Message, new_id
from asynctasq_dashboard import dashboard

from .browser import Browser
from .conftest import Serve

#: Each way out of a text, an attribute, an address, a script, a style and a template.
HOSTILE = (
    "<script>window.pwned=1</script><img src=x onerror=window.pwned=1>"
    "\"'><svg onload=window.pwned=1>{{7*7}}{%raw%}javascript:window.pwned=1//"
    "</title></textarea></style><!--&lt;\u202e\x00\x1b[31m\ud800"
)
#: What can be text in UTF-8, and names that brokers keep as they are.
TEXT = HOSTILE.replace("\ud800", "")
NAME = TEXT.replace("\x00", "")


PATHS = ("/", "/queues", "/calls", "/dead", "/dead?by=one", "/workers", "/schedules", "/keys")
QUERIES = ("search", "queue", "task", "error", "arguments", "id", "said", "n", "by")


async def fill() -> Consumer:
    """A dead letter, a running worker, a schedule and a line of calls, all of them hostile."""
    broker = current().open_broker()
    info = WorkerInfo(NAME, NAME, 4711, (NAME,), 20, 1e300)
    consumer = broker.consumer(ConsumerOptions(info, info.queues))
    await consumer.start()
    for _ in range(2):
        payload: bytes = msgpack.packb(
            [[HOSTILE, {HOSTILE: HOSTILE}], {HOSTILE: HOSTILE}], unicode_errors="surrogatepass"
        )
        body = Message(new_id(), TEXT, payload, 0.0).encode()
        policy = Policy(limit=LimitKey(NAME, 1))
        await broker.put([Outgoing(NAME, new_id() if _ else NAME, body, policy=policy)])
    (delivery,) = await consumer.take(1, 0)
    said = dict.fromkeys(("reason", "task", "error", "traceback"), TEXT)
    # No form can send a zero byte, so no task whose name holds one can be chosen by it.
    letter: bytes = msgpack.packb({**said, "task": NAME, "attempts": 1})
    await consumer.settle([Outcome(delivery, Action.DEAD, info=letter)])
    await schedule(hostile(TEXT), name=NAME, every=timedelta(days=300))
    return consumer


@task(queue="default")
async def hostile(text: str) -> None: ...


@pytest.mark.timeout(300)  # some forty pages
@pytest.mark.parametrize("may_act", [True, False])
def test_nothing_hostile_is_more_than_text(browser: Browser, serve: Serve, may_act: bool) -> None:
    if not may_act:
        browser.site = serve(dashboard(authorize=lambda request: "read", title=NAME))

    async def look() -> None:
        consumer = await fill()
        await asyncio.to_thread(visit)
        await consumer.stop()

    def visit() -> None:
        for path in PATHS:
            browser.open(path)
            unharmed(path)
            if path != "/keys":
                assert "<script>window.pwned=1</script>" in browser.one("body").text, path
            browser.run(
                "window.heard = 0; const s = new EventSource(location.href + "
                "(location.search ? '&' : '?') + 'live=1');"
                "s.addEventListener('content', () => { window.heard = 1; s.close(); });"
            )
            browser.until(lambda: browser.run("return window.heard"))
            unharmed(path)
        browser.open("/dead?by=one")
        browser.one("tbody th a").click()
        browser.until(lambda: browser.path.startswith("/call"))
        unharmed("/call")
        assert "<script>window.pwned=1</script>" in browser.one("pre").text
        hostile = "=%3Cscript%3Ewindow.pwned=1%3C/script%3E"
        for path in ("/queues", "/calls", "/dead", "/keys", "/call", "/work", "/schedules"):
            for query in ("&".join(f"{name}{hostile}" for name in QUERIES), f"after{hostile}"):
                browser.open(f"{path}?{query}")
                unharmed(path)
        if may_act:
            browser.open("/queues")
            browser.press("Purge")
            unharmed("the question")
            browser.press("Yes, do it")
            browser.until_text("Deleted 1 calls")
            browser.open("/schedules")
            browser.press("Pause")
            browser.until_text("paused")
            browser.open("/dead")
            browser.press("Retry", browser.one("tbody tr"))
            browser.until_text("Put 1 back")

    def unharmed(where: str) -> None:
        assert browser.run("return window.pwned") is None, where
        strange = browser.run(
            "return [...document.querySelectorAll('script, img, [onload], [onerror], style')]"
            ".filter((e) => !(e.src || '').includes('/static/')).map((e) => e.outerHTML)"
        )
        assert strange == [], where
        assert "49" not in str(browser.run("return document.title")), where

    asyncio.run(look())


def test_a_run_with_hostile_names_is_told_in_the_history(browser: Browser) -> None:
    async def run() -> None:
        body = Message(new_id(), NAME, b"\x92\x90\x80", 0.0).encode()
        await current().open_broker().put([Outgoing("default", "1", body)])
        await Worker(queues=["default"], burst=True).run()

    asyncio.run(run())
    browser.open()
    assert browser.run("return window.pwned") is None
    assert "<script>window.pwned=1</script>" in browser.text

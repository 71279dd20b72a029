"""Who may look, who may act, and what no page and no other site can do."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from asynctasq import Worker, dispatch_many_sync, init
from asynctasq.app import current
from asynctasq.looking import queues
from asynctasq_dashboard import dashboard
from asynctasq_dashboard.command import _authorize
from asynctasq_dashboard.pages import PAGES
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.routing import Mount
from starlette.types import ASGIApp

from . import shop

pytestmark = pytest.mark.usefixtures("_queue")


@asynccontextmanager
async def visiting(application: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.example") as client:
        yield client


def token_in(page: httpx.Response) -> str:
    found = re.search(r'name="csrf" value="([\w-]+)"', page.text)
    assert found
    return found[1]


@pytest.fixture
def open_to_all() -> ASGIApp:
    return dashboard(authorize=lambda request: True)


@pytest.fixture
def _waiting(_queue: None) -> None:
    dispatch_many_sync(shop.wave(str(n)) for n in range(3))


async def waiting() -> int:
    return sum(queue.waiting for queue in await queues())


async def test_nobody_sees_anything_unless_let_in() -> None:
    async with visiting(dashboard(authorize=lambda request: False)) as visitor:
        for page in PAGES:
            for query in ("", "?live=1"):
                answer = await visitor.get(page.path + query)
                assert answer.status_code == 403
                assert answer.text == "You may not look at this."
        assert (await visitor.post("/do", data={"do": "purge"})).status_code == 403


@pytest.mark.parametrize("answer", [None, 1, "write", "True", object()])
async def test_only_true_lets_somebody_act_and_only_read_lets_somebody_look(
    answer: object,
) -> None:
    application = dashboard(authorize=lambda request: answer)  # type: ignore[arg-type,return-value]
    async with visiting(application) as visitor:
        assert (await visitor.get("/")).status_code == 403


async def test_the_application_decides_by_the_request_and_may_send_to_its_login() -> None:
    async def authorize(request: Request) -> bool | RedirectResponse:
        return request.cookies.get("user") == "ada" or RedirectResponse("/login")

    async with visiting(dashboard(authorize=authorize)) as visitor:
        answer = await visitor.get("/dead")
        assert (answer.status_code, answer.headers["location"]) == (307, "/login")
        assert (await visitor.get("/dead", headers={"cookie": "user=ada"})).status_code == 200


@pytest.mark.usefixtures("_waiting")
@pytest.mark.parametrize("read_only", [True, False])
async def test_who_may_only_look_has_no_buttons_and_cannot_act(read_only: bool) -> None:
    application = dashboard(
        authorize=lambda request: True if read_only else "read", read_only=read_only
    )
    async with visiting(application) as visitor:
        for path in ("/", "/queues", "/dead", "/dead?by=one", "/schedules"):
            page = await visitor.get(path)
            assert page.status_code == 200
            assert 'action="/do"' not in page.text or 'name="do"' not in page.text
        token = visitor.cookies["asynctasq_csrf"]
        data = {"do": "purge", "queue": "mail", "sure": "yes", "csrf": token}
        assert (await visitor.post("/do", data=data)).status_code == 403
    assert await waiting() == 3


@pytest.mark.usefixtures("_waiting")
async def test_an_action_takes_the_token_of_a_page_that_was_served(open_to_all: ASGIApp) -> None:
    data = {"do": "purge", "queue": "mail", "sure": "yes"}
    async with visiting(open_to_all) as visitor, visiting(open_to_all) as other:
        token = token_in(await visitor.get("/queues"))
        others = token_in(await other.get("/queues"))
        for forged in ({}, {"csrf": ""}, {"csrf": others}, {"csrf": "ä"}):
            answer = await visitor.post("/do", data=data | forged)
            assert answer.status_code == 403
            assert "This page is too old" in answer.text
        headers = {"sec-fetch-site": "cross-site"}
        answer = await visitor.post("/do", data=data | {"csrf": token}, headers=headers)
        assert answer.status_code == 403
        headers = {"content-type": "text/plain"}
        answer = await visitor.post("/do", content=f"do=purge&csrf={token}", headers=headers)
        assert answer.status_code == 415
        assert await waiting() == 3
        answer = await visitor.post("/do", data=data | {"csrf": token})
        assert answer.status_code == 303
        assert await waiting() == 0


async def test_a_visitor_without_a_cookie_cannot_act(open_to_all: ASGIApp) -> None:
    async with visiting(open_to_all) as visitor:
        answer = await visitor.post("/do", data={"do": "purge", "csrf": ""})
        assert answer.status_code == 403


async def test_an_error_of_the_application_s_own_function_is_said_in_words() -> None:
    def authorize(request: Request) -> bool:
        raise LookupError("no such session")

    transport = httpx.ASGITransport(dashboard(authorize=authorize), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.example") as visitor:
        answer = await visitor.get("/")
    assert answer.status_code == 500
    assert "the log of the server says why" in answer.text
    assert "session" not in answer.text


async def test_what_is_gone_meanwhile_is_said(open_to_all: ASGIApp) -> None:
    async with visiting(open_to_all) as visitor:
        await visitor.get("/")
        token = visitor.cookies["asynctasq_csrf"]
        for do in ("retry", "delete", "cancel", "run-schedule", "resume-schedule"):
            form = {"csrf": token, "do": do, "sure": "yes", "id": "0" * 32, "name": "x"}
            answer = await visitor.post("/do", data=form | {"queue": "mail", "back": "/dead"})
            page = await visitor.get(answer.headers["location"])
            assert "It is no longer there." in page.text, do


@pytest.mark.usefixtures("_waiting")
async def test_nothing_is_done_by_a_get(open_to_all: ASGIApp) -> None:
    async with visiting(open_to_all) as visitor:
        token = token_in(await visitor.get("/queues"))
        query = f"do=purge&queue=mail&sure=yes&csrf={token}"
        for page in PAGES:
            await visitor.get(f"{page.path}?{query}")
        assert (await visitor.get(f"/do?{query}")).status_code == 405
    assert await waiting() == 3


async def test_forms_are_of_a_bounded_size_and_actions_are_known(open_to_all: ASGIApp) -> None:
    async with visiting(open_to_all) as visitor:
        await visitor.get("/")
        token = visitor.cookies["asynctasq_csrf"]
        answer = await visitor.post("/do", data={"csrf": token, "do": "x" * 300_000})
        assert answer.status_code == 413
        many = "&".join(f"id={n}" for n in range(3000))
        headers = {"content-type": "application/x-www-form-urlencoded"}
        answer = await visitor.post("/do", content=f"csrf={token}&{many}", headers=headers)
        assert answer.status_code == 400
        answer = await visitor.post("/do", data={"csrf": token, "do": "drop"})
        assert answer.status_code == 400


@pytest.mark.parametrize(
    "back", ["https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:alert(1)"]
)
async def test_after_an_action_the_browser_stays_here(open_to_all: ASGIApp, back: str) -> None:
    async with visiting(open_to_all) as visitor:
        await visitor.get("/")
        token = visitor.cookies["asynctasq_csrf"]
        data = {"csrf": token, "do": "pause-schedule", "name": "x", "back": back}
        answer = await visitor.post("/do", data=data)
        assert answer.headers["location"] == "/?said=missing"


async def test_an_address_makes_the_page_say_nothing_of_its_own(open_to_all: ASGIApp) -> None:
    async with visiting(open_to_all) as visitor:
        page = await visitor.get("/", params={"said": "begun", "n": "call 0900-1234 now"})
        assert "Made the call some." in page.text
        page = await visitor.get("/", params={"said": "you have won"})
        assert 'class="said"' not in page.text


async def test_every_answer_forbids_what_a_page_does_not_need(open_to_all: ASGIApp) -> None:
    async with visiting(open_to_all) as visitor:
        for path in ("/", "/dead", "/call?id=x", "/static/dashboard.js"):
            answer = await visitor.get(path)
            if path.startswith("/static"):
                continue
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-store"
            assert not re.search(r"<[^>]+\s(style|on\w+)=", answer.text)
        cookie = (await visitor.get("/")).headers.get("set-cookie", "")
        assert cookie == ""  # it is kept already
    async with visiting(open_to_all) as visitor:
        cookie = (await visitor.get("/")).headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=lax" in cookie


async def test_it_may_be_mounted_anywhere(open_to_all: ASGIApp) -> None:
    application = Starlette(routes=[Mount("/ops/tasks", open_to_all)])
    async with visiting(application) as visitor:
        page = await visitor.get("/ops/tasks/queues")
        addresses = re.findall(r'(?:href|src|action)="([^"#]+)', page.text)
        assert addresses
        assert all(address.startswith("/ops/tasks/") for address in addresses)
        for address in set(addresses):
            if not address.endswith("/do"):
                assert (await visitor.get(address)).status_code == 200
        assert "path=/ops/tasks" in page.headers["set-cookie"].lower()
        token = visitor.cookies["asynctasq_csrf"]
        data = {"csrf": token, "do": "pause-schedule", "back": "/ops/tasks/dead?by=one"}
        answer = await visitor.post("/ops/tasks/do", data=data)
        assert answer.headers["location"] == "/ops/tasks/dead?by=one&said=missing"


async def test_who_does_not_see_arguments_finds_none_by_them() -> None:
    await shop.welcome("secret@example.com").dispatch()
    await Worker(queues=["mail"], burst=True).run()
    init(driver="sqlite", sqlite=current().config.broker.path, show_arguments=False)
    async with visiting(dashboard(authorize=lambda request: True)) as visitor:
        page = await visitor.get("/dead")
        assert 'name="arguments"' not in page.text
        page = await visitor.get("/dead?by=one&arguments=secret")
        assert "No dead letter fits." in page.text
        page = await visitor.get("/dead?by=one")
        assert shop.welcome.name in page.text
        assert "address=" not in page.text


def request_of(**headers: str) -> Request:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "GET", "path": "/", "headers": raw})


@pytest.mark.parametrize(
    ("host", "is_let_in"),
    [
        ("127.0.0.1:8788", True),
        ("localhost", True),
        ("[::1]:8788", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example:8788", False),
    ],
)
def test_the_server_for_this_machine_refuses_other_names(host: str, is_let_in: bool) -> None:
    answer = _authorize("", is_local=True)(request_of(host=host))
    assert (answer is True) is is_let_in


def test_a_password_is_asked_for_where_one_is_set() -> None:
    authorize = _authorize("geheim", is_local=False)

    def given(text: str) -> Request:
        encoded = base64.b64encode(text.encode()).decode()
        return request_of(host="ops.example", authorization=f"Basic {encoded}")

    assert authorize(given("anybody:geheim")) is True
    for request in (given("anybody:Geheim"), given("geheim"), request_of(host="ops.example")):
        assert getattr(authorize(request), "status_code", None) == 401
    for broken in ("Basic !!!", "Basic /w==", "Bearer geheim", ""):
        request = request_of(host="ops.example", authorization=broken)
        assert getattr(authorize(request), "status_code", None) == 401

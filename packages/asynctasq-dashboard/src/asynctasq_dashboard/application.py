"""The ASGI application: its addresses, who may see them, and headers of every answer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from asynctasq import AsynctasqError, BrokerError
from asynctasq.looking import describe
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from .access import HEADERS, Authorize, May, is_forged, keep_token, permission, token_of
from .actions import ACTIONS, said
from .links import Link, Links
from .live import Streams
from .pages import PAGES, Page
from .rendering import live_part, whole_page
from .view import View, form_of
from .work import Works

logger = logging.getLogger(__name__)


def dashboard(
    *,
    authorize: Authorize,
    read_only: bool = False,
    link: Mapping[str | type, Link] | None = None,
    title: str = "asynctasq",
) -> ASGIApp:
    """An application to mount: `app.mount("/tasks", dashboard(authorize=...))`.

    It shows what the application's `asynctasq.init` configures, and uses the broker on the event
    loop that serves it.

    Args:
        authorize: A sync or async function called with each request: `True` lets somebody look and
            act, `"read"` only look, `False` neither; a Starlette response, such as a redirect to
            your login, is sent instead. It sees the request's cookies, session and user as your
            application does.
        read_only: Let nobody act.
        link: Where to look at the rows of models, by the model's class or its path such as
            `"shop.models.Order"`: a pattern such as `"/admin/orders/{key}"`, or a function from the
            key to an address or `None`.
        title: The heading of each page.

    Returns:
        An ASGI application without a lifespan, which may be mounted anywhere.
    """
    return _Dashboard(authorize, read_only, Links(link or {}), title).application()


class _Dashboard:
    def __init__(self, authorize: Authorize, read_only: bool, links: Links, title: str) -> None:
        self._authorize = authorize
        self._read_only = read_only
        self._links = links
        self._title = title
        self._works = Works()
        self._streams = Streams()

    def application(self) -> ASGIApp:
        pages = [Route(page.path, self._endpoint(page)) for page in PAGES]
        files = StaticFiles(packages=[("asynctasq_dashboard", "static")])
        return Starlette(
            routes=[
                *pages,
                Route("/do", self._do, methods=["POST"]),
                Mount("/static", files),
            ],
            # The error itself goes on to the application and its server, as without a handler.
            exception_handlers={Exception: _broken},
        )

    def _endpoint(self, page: Page) -> Any:
        async def show(request: Request) -> Response:
            return await self._answer(request, page)

        return show

    async def _answer(self, request: Request, page: Page) -> Response:
        allowed = await permission(self._authorize, request)
        if isinstance(allowed, Response):
            return _secured(allowed)
        view = self._view(request, allowed, token_of(request))
        if request.query_params.get("live") == "1":

            async def look() -> str:
                context = self._context(view, page) | await page.build(view)
                return live_part(page.template, context)

            return _secured(self._streams.answer(look))
        try:
            context = await page.build(view)
        except BrokerError as e:
            return self._problem(view, f"The broker cannot be asked: {e}", 503)
        except HTTPException as e:
            return self._problem(view, e.detail, e.status_code)
        except AsynctasqError as e:  # this broker cannot show that
            return self._problem(view, str(e), 501)
        return self._page(view, page.template, self._context(view, page) | context)

    async def _do(self, request: Request) -> Response:
        allowed = await permission(self._authorize, request)
        if isinstance(allowed, Response):
            return _secured(allowed)
        view = self._view(request, allowed, token_of(request))
        if not view.may_act:
            return self._problem(view, "You may look at this, but not change anything.", 403)
        try:
            form = await form_of(request)
        except HTTPException as e:
            return self._problem(view, "This form cannot be read.", e.status_code)
        if is_forged(request, form.get("csrf", [""])[0]):
            reason = "This page is too old, or was not served here. Go back, reload it, try again."
            return self._problem(view, reason, 403)
        view = self._view(request, allowed, token_of(request), form)
        action = ACTIONS.get(view.sent("do"))
        if action is None:
            return self._problem(view, "There is no such action.", 400)
        if action.question and not view.sent("sure"):
            question = action.question(view)
            fields = [(k, v) for k, values in form.items() if k != "csrf" for v in values]
            context = {"question": question, "fields": fields, "back": view.back()}
            return self._page(view, "confirm.html", self._context(view) | context)
        who = request.client.host if request.client else "?"
        logger.info("action", extra={"action": view.sent("do"), "client": who})
        try:
            address = await action.do(view)
        except BrokerError as e:
            return self._problem(view, f"The broker did not do it: {e}", 503)
        except (AsynctasqError, ValueError) as e:
            return self._problem(view, f"It cannot be done: {e}", 400)
        return _secured(RedirectResponse(address, 303))

    def _view(
        self,
        request: Request,
        allowed: May,
        token: str,
        form: Mapping[str, list[str]] | None = None,
    ) -> View:
        base = str(request.scope.get("root_path", "")).rstrip("/")
        may_act = allowed is May.ACT and not self._read_only
        return View(request, base, may_act, token, self._links, self._works, form or {})

    def _context(self, view: View, page: Page | None = None) -> dict[str, Any]:
        return {
            "view": view,
            "title": self._title,
            "page": page,
            "pages": [p for p in PAGES if p.is_in_menu],
            "broker": describe(),
            "said": said(view.parameter("said"), view.parameter("n")),
        }

    def _problem(self, view: View, text: str, status: int) -> Response:
        return self._page(view, "problem.html", self._context(view) | {"text": text}, status)

    def _page(
        self, view: View, template: str, context: dict[str, Any], status: int = 200
    ) -> Response:
        response = HTMLResponse(whole_page(template, context), status)
        keep_token(view.request, response, view.token)
        return _secured(response)


async def _broken(request: Request, error: Exception) -> Response:
    text = "This could not be done; the log of the server says why."
    return _secured(PlainTextResponse(text, 500))


def _secured(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response

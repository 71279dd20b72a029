"""Who may look and who may act.

Owns three rules. Nobody sees anything unless the application lets them in. Only a POST from a page
that this dashboard served to the same browser changes anything. A page loads nothing from elsewhere
and runs only its own script.
"""

from __future__ import annotations

import hmac
import inspect
import re
import secrets
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import Literal

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

#: `True` lets somebody look and act, `"read"` only look, `False` neither; a response, such as a
#: redirect to the login, is sent in place of the page.
Answer = bool | Literal["read"] | Response
Authorize = Callable[[Request], Answer | Awaitable[Answer]]

COOKIE, FIELD = "asynctasq_csrf", "csrf"

_TOKEN = re.compile(r"[\w-]{43}")

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; "
    "base-uri 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class May(IntEnum):
    """What somebody may do."""

    LOOK = 1
    ACT = 2


async def permission(authorize: Authorize, request: Request) -> May | Response:
    """What the sender of a request may do, or the response to send instead."""
    answer = authorize(request)
    if inspect.isawaitable(answer):
        answer = await answer
    if isinstance(answer, Response):
        return answer
    if answer is True:
        return May.ACT
    if answer == "read":
        return May.LOOK
    return PlainTextResponse("You may not look at this.", 403)


def token_of(request: Request) -> str:
    """The token that a form must send: the cookie's value, or a new one."""
    kept = request.cookies.get(COOKIE, "")
    return kept if _TOKEN.fullmatch(kept) else secrets.token_urlsafe(32)


def keep_token(request: Request, response: Response, token: str) -> None:
    """Have the browser send the token back, and only to this dashboard."""
    if request.cookies.get(COOKIE) != token:
        path = request.scope.get("root_path") or "/"
        is_secure = request.url.scheme == "https"
        response.set_cookie(
            COOKIE, token, path=path, secure=is_secure, httponly=True, samesite="lax"
        )


def is_forged(request: Request, sent: str) -> bool:
    """Whether a POST may come from somebody else's page."""
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return True
    kept = request.cookies.get(COOKIE, "")
    return not kept or not hmac.compare_digest(kept.encode(), sent.encode())

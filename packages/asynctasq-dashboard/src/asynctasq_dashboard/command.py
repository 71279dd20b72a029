"""`asynctasq dashboard`: the page with its own server."""

from __future__ import annotations

import base64
import hmac
import os

import click
from asynctasq import ConfigurationError
from asynctasq.loading import load_application
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from .access import Answer, Authorize
from .application import dashboard

PASSWORD = "ASYNCTASQ_DASHBOARD_PASSWORD"

_LOOPBACK = ("127.0.0.1", "localhost", "::1")

#: How long open pages may delay the end of the server.
_CLOSING_SECONDS = 2


@click.command("dashboard")
@click.option(
    "-m",
    "--module",
    "modules",
    multiple=True,
    metavar="MODULE",
    help="Module or script of the application whose asynctasq.init(...) applies; repeatable.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=8788, show_default=True)
@click.option("--read-only", is_flag=True, help="Show everything, but change nothing.")
@click.option("--title", default="asynctasq", show_default=True, help="Heading of each page.")
def command(modules: tuple[str, ...], host: str, port: int, read_only: bool, title: str) -> None:
    """Serve a web page with queues, dead letters, schedules and workers.

    By default, only this machine can reach it, and anyone on it may use it. If
    ASYNCTASQ_DASHBOARD_PASSWORD is set, it asks for that password, with any user name. Listening on
    other addresses requires one; put a server that speaks TLS in front of it then.
    """
    import uvicorn

    password = os.environ.get(PASSWORD, "")
    is_local = host in _LOOPBACK
    if not is_local and not password:
        raise ConfigurationError(f"--host {host}: set {PASSWORD}, or anyone could do anything")
    load_application(modules)
    authorize = _authorize(password, is_local=is_local)
    page = dashboard(authorize=authorize, read_only=read_only, title=title)
    shown = f"[{host}]" if ":" in host else host
    click.echo(f"http://{shown}:{port}/  (Ctrl-C ends it)", err=True)
    uvicorn.run(
        page,
        host=host,
        port=port,
        log_level="warning",
        timeout_graceful_shutdown=_CLOSING_SECONDS,
        server_header=False,
    )


def _authorize(password: str, *, is_local: bool) -> Authorize:
    def authorize(request: Request) -> Answer:
        if is_local and request.url.hostname not in _LOOPBACK:
            # Guards against DNS rebinding: a page elsewhere may point its own name at this machine.
            return PlainTextResponse("This is only for the machine that it runs on.", 400)
        if not password or hmac.compare_digest(_given(request).encode(), password.encode()):
            return True
        return Response(status_code=401, headers={"WWW-Authenticate": 'Basic realm="asynctasq"'})

    return authorize


def _given(request: Request) -> str:
    """The password that the browser sends."""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(encoded).decode().partition(":")[2]
    except ValueError:
        return ""

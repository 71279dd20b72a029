"""The worker's HTTP pages: `/live`, `/ready` and, if a plugin provides it, `/metrics`.

Served by separate threads, so that they answer even while a task blocks the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from ..adapters.plugins import Adapters
from ..brokers import QueueStats
from ..brokers.opening import open_broker
from ..config import Config
from ..errors import BrokerError, ConfigurationError
from .probes import Probe

logger = logging.getLogger(__name__)

_TEXT = "text/plain; charset=utf-8"

#: How long a client may take to send its request.
_REQUEST_SECONDS = 10.0

#: How long the broker may take to count its queues' messages.
_STATS_SECONDS = 5.0


class Answer(NamedTuple):
    """A page's response."""

    status: int
    content_type: str
    body: bytes


Page = Callable[[], Answer]


def health_pages(probe: Probe) -> dict[str, Page]:
    """The pages for probes, such as Kubernetes'."""
    return {"/live": lambda: _said(probe.not_live()), "/ready": lambda: _said(probe.not_ready())}


def _said(problem: str) -> Answer:
    return Answer(503 if problem else 200, _TEXT, f"{problem or 'ok'}\n".encode())


def metrics_pages(
    adapters: Adapters, config: Callable[[], Config | None], *, has_processes: bool
) -> dict[str, Page]:
    """The metrics page, made by the plugin that implements the hook.

    Args:
        config: Gives the configuration that tells where the queues are; `None` until it is known.
        has_processes: Whether this is the parent of the worker processes.

    Raises:
        ConfigurationError: No plugin implements the hook.
    """
    makers = adapters.with_hook("metrics_page")
    if not makers:
        raise ConfigurationError(
            "--metrics-port: no plugin makes metrics; pip install asynctasq-prometheus"
        )
    page = makers[0].metrics_page(has_processes)  # type: ignore[misc]

    def answer() -> Answer:
        return Answer(200, *page(_stats(config())))

    return {"/metrics": answer}


def _stats(config: Config | None) -> list[QueueStats] | None:
    if config is None:
        return None
    try:
        return asyncio.run(_stats_of(config))
    except (BrokerError, TimeoutError):
        return None


async def _stats_of(config: Config) -> list[QueueStats]:
    broker = open_broker(config)
    try:
        async with asyncio.timeout(_STATS_SECONDS):
            return await broker.stats()
    finally:
        await broker.close()


def serve(pages_by_port: Mapping[int, Mapping[str, Page]]) -> None:
    """Serve pages on all of this machine's addresses until the process ends.

    Raises:
        ConfigurationError: A port is not available.
    """
    for port, pages in pages_by_port.items():
        try:
            server = _Server(("", port), _handler(pages))
        except OSError as e:
            raise ConfigurationError(f"port {port} cannot be served: {e.strerror or e}") from e
        name = f"asynctasq-port-{port}"
        threading.Thread(target=server.serve_forever, name=name, daemon=True).start()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Log the error at debug level only: mostly a client has left early."""
        logger.debug("a request failed", exc_info=True)


def _made(page: Page) -> Answer:
    try:
        return page()
    except Exception:
        logger.exception("a page cannot be made")
        return Answer(500, _TEXT, b"the page cannot be made; the log says why\n")


def _handler(pages: Mapping[str, Page]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _REQUEST_SECONDS
        server_version = "asynctasq"
        sys_version = ""

        def do_GET(self) -> None:
            page = pages.get(self.path.partition("?")[0])
            self._send(_made(page) if page is not None else Answer(404, _TEXT, b"no such page\n"))

        do_HEAD = do_GET

        def _send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing: probes ask every few seconds."""

    return Handler

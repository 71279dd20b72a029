"""The worker's HTTP pages, without a worker."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request

import pytest
from asynctasq.supervision.pages import Answer, serve


def test_a_page_that_fails_answers_so_and_the_log_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken() -> Answer:
        raise LookupError("no such folder")

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    serve({port: {"/metrics": broken}})
    with pytest.raises(urllib.error.HTTPError) as failed:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10)
    with failed.value as answer:
        assert answer.code == 500
        assert b"the log says why" in answer.read()
    assert "no such folder" in caplog.text

"""What the page on events assumes: sentry-sdk with a transport that keeps what it is to send."""

from __future__ import annotations

from typing import Any

import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

_reports: list[dict[str, Any]] = []


class _Kept(Transport):
    def capture_envelope(self, envelope: Envelope) -> None:
        if (event := envelope.get_event()) is not None:
            _reports.append(dict(event))


async def setup() -> None:
    """Begin as an application does."""
    sentry_sdk.init(dsn="https://key@sentry.invalid/1", transport=_Kept)


async def teardown() -> None:
    """Each failure was reported, and the dead letter by its log record too."""
    listened = [r for r in _reports if r.get("tags")]
    logged = [r for r in _reports if not r.get("tags")]
    assert [r["tags"]["attempt"] for r in listened] == [1, 2]
    assert [r["logger"] for r in logged] == ["asynctasq.worker.slots"]
    for report in _reports:
        (error,) = report["exception"]["values"]
        assert error["type"] == "ConnectionError"
        frame = error["stacktrace"]["frames"][-1]
        assert frame["function"] == "charge"
        assert "payload" not in str(error["stacktrace"])
    assert {r["tags"]["task"] for r in listened} == {"sentry_page.charge"}

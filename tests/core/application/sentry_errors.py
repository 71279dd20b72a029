"""Two failing tasks and what Sentry's SDK makes of them, printed as JSON.

A program of its own, since the SDK patches logging, threads and subprocesses for good.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import asynctasq
import sentry_sdk
from asynctasq import Worker, task
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport


class Kept(Transport):
    """Sends nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Any] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        """Keep the event."""
        if (event := envelope.get_event()) is not None:
            self.events.append(event)


@task(max_attempts=1)
async def divides() -> None:
    """Fail in one way."""
    print(1 / 0)


@task(max_attempts=1)
async def looks_up() -> None:
    """Fail in another."""
    nothing: dict[str, int] = {}
    print(nothing["at all"])


async def main() -> None:
    """Run both, and print the task, the kind and the functions of each event."""
    transport = Kept()
    sentry_sdk.init(dsn="https://key@localhost/1", transport=transport)
    asynctasq.init(driver="memory")
    await divides().dispatch()
    await looks_up().dispatch()
    await Worker(burst=True).run()
    told = []
    for event in transport.events:
        error = event["exception"]["values"][-1]
        functions = [frame["function"] for frame in error["stacktrace"]["frames"]]
        told.append([event["extra"]["task"], error["type"], functions])
    print(json.dumps(told))


if __name__ == "__main__":
    asyncio.run(main())

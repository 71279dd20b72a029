"""This project, called from synchronous code."""

from dataclasses import replace

from bench.peers import INSIDE, asynctasq

PEER = replace(asynctasq.PEER, is_async=False, has_bulk=False, settings="dispatch_sync")

if INSIDE:

    class Producer:
        def open(self) -> None: ...

        def close(self) -> None: ...

        def send(self, kind: str, *args: object) -> None:
            asynctasq.TASKS[kind](*args).dispatch_sync()

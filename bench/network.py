"""A network that takes its time: a TCP proxy that hands everything on a moment later.

    python -m bench.network PORT SECONDS

Prints the port where it listens for what goes to `PORT`. Threads that sleep keep the time better
than an event loop, whose timers are accurate to a millisecond.
"""

from __future__ import annotations

import queue
import socket
import sys
import threading
import time


def serve(port: int, seconds: float) -> None:
    """Accept connections until the process ends."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            near, _ = server.accept()
            far = socket.create_connection(("127.0.0.1", port))
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for source, sink in ((near, far), (far, near)):
                on_the_way: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
                _start(_receive, source, on_the_way, seconds)
                _start(_deliver, sink, on_the_way)


def _start(function: object, *args: object) -> None:
    threading.Thread(target=function, args=args, daemon=True).start()  # type: ignore[arg-type]


def _receive(
    source: socket.socket, on_the_way: queue.SimpleQueue[tuple[float, bytes]], seconds: float
) -> None:
    while True:
        try:
            data = source.recv(65536)
        except OSError:
            data = b""
        on_the_way.put((time.monotonic() + seconds, data))
        if not data:
            return


def _deliver(sink: socket.socket, on_the_way: queue.SimpleQueue[tuple[float, bytes]]) -> None:
    while True:
        due, data = on_the_way.get()
        time.sleep(max(0.0, due - time.monotonic()))
        try:
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            sink.sendall(data)
        except OSError:
            return


if __name__ == "__main__":
    serve(int(sys.argv[1]), float(sys.argv[2]))

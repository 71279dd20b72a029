"""Reports a worker's state to systemd, for units with `Type=notify`, and feeds its watchdog.

The protocol is sd_notify(3): one datagram per message, to the socket in `NOTIFY_SOCKET`.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Mapping

from .probes import Probe

#: How often to check whether the worker is ready yet.
_LOOK_SECONDS = 0.5


def notify_systemd(probe: Probe, environ: Mapping[str, str] = os.environ) -> None:
    """Tell systemd when the worker is ready and, repeatedly, that it is alive.

    Does nothing outside systemd. With a watchdog (`WatchdogSec=`), systemd kills a worker that is
    no longer alive.
    """
    address = environ.get("NOTIFY_SOCKET")
    if address:
        watchdog = _watchdog_seconds(environ)
        threading.Thread(
            target=_run, args=(probe, address, watchdog), name="asynctasq-systemd", daemon=True
        ).start()


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """How often systemd wants a sign of life; `None` if it wants none from this process."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdecimal() else None


def _run(probe: Probe, address: str, watchdog: float | None) -> None:
    pause = threading.Event()  # never set: the thread ends with the process
    while probe.not_ready():
        # The start may take longer than the watchdog allows; another setting bounds it.
        _tell(address, "WATCHDOG=1")
        pause.wait(_LOOK_SECONDS)
    _tell(address, "READY=1")
    while watchdog is not None:
        if not (problem := probe.not_live()):
            _tell(address, "WATCHDOG=1")
        else:
            _tell(address, f"STATUS={problem}")
        pause.wait(watchdog / 3)


def _tell(address: str, text: str) -> None:
    path = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        try:
            sender.sendto(text.encode(), path)
        except OSError:
            return  # systemd is gone, or was never there

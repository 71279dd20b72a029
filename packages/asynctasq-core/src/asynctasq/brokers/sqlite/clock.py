"""The clock of leases: one for all processes of the machine, which nobody sets back or forth.

The monotonic clock starts anew when the machine does, and so says nothing of leases of an earlier
start: a queue file keeps the name of the start that its leases belong to. Where starts have no name
(neither Linux nor macOS), leases follow the wall clock.
"""

from __future__ import annotations

import ctypes
import sys
import time
from pathlib import Path

_LINUX_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def _boot_id() -> str:
    """A name that the machine has until it starts again; empty where there is none."""
    if sys.platform == "darwin":
        return _darwin_boot_id()
    try:
        return _LINUX_BOOT_ID.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _darwin_boot_id() -> str:
    found, size = ctypes.create_string_buffer(64), ctypes.c_size_t(64)
    sysctl = ctypes.CDLL(None).sysctlbyname
    failed = sysctl(b"kern.bootsessionuuid", found, ctypes.byref(size), None, ctypes.c_size_t(0))
    return "" if failed else found.value.decode("ascii")


BOOT = _boot_id()

now = time.monotonic if BOOT else time.time
"""Seconds; of the processes that share a file all see the same."""

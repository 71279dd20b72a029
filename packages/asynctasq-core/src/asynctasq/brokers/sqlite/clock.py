"""The clock for leases: monotonic, and the same for all processes of the machine.

The monotonic clock restarts when the machine boots, so it says nothing about leases from an earlier
boot. A queue file therefore records the boot that its leases belong to. Where boots have no id
(systems other than Linux and macOS), leases follow the wall clock.
"""

from __future__ import annotations

import ctypes
import sys
import time
from pathlib import Path

_LINUX_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def _boot_id() -> str:
    """An id that lasts until the machine reboots; empty if the system has none."""
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
"""The current time in seconds; all processes that share a file see the same clock."""

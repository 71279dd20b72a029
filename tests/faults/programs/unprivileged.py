"""Makes the process that imports this obey file permissions, as others than root do anyway."""

from __future__ import annotations

import ctypes
import os

_VERSION_3 = 0x20080522
_DAC_OVERRIDE = 1 << 1


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Capabilities(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable"))


if os.geteuid() == 0:
    _libc = ctypes.CDLL(None, use_errno=True)
    _header, _both = _Header(_VERSION_3, 0), (_Capabilities * 2)()
    _libc.capget(ctypes.byref(_header), _both)
    _both[0].effective &= ~_DAC_OVERRIDE
    if _libc.capset(ctypes.byref(_header), _both):
        raise OSError(ctypes.get_errno(), "capset")

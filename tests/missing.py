"""What a test does without something that it needs."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    """Skip for want of a server or a program; on a CI machine that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)

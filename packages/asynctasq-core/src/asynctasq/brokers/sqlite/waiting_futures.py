"""Settles futures of waiting calls, each on its own event loop, from the thread of a queue file."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

T = TypeVar("T")


def answer(future: asyncio.Future[T], found: T) -> None:
    """Make a waiting call return what was found; callable from any thread."""
    _call(future, future.set_result, found)


def fail(future: asyncio.Future[Any], error: Exception) -> None:
    """Make a waiting call raise the error; callable from any thread."""
    _call(future, future.set_exception, error)


def _call(future: asyncio.Future[Any], settle: Any, what: object) -> None:
    try:
        future.get_loop().call_soon_threadsafe(_unless_done, future, settle, what)
    except RuntimeError:  # the loop was closed while its call was still waiting
        return


def _unless_done(future: asyncio.Future[Any], settle: Any, what: object) -> None:
    if not future.done():
        settle(what)

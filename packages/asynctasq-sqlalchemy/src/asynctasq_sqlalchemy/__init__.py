"""SQLAlchemy model instances as arguments of asynctasq tasks.

Importing this package does not import SQLAlchemy; using one of its names does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .options import for_update, read_from

if TYPE_CHECKING:
    from .engines import create_worker_session_factory
    from .schema import tables
    from .sessions import task_session

__version__ = "0.1.0"

__all__ = ["create_worker_session_factory", "for_update", "read_from", "tables", "task_session"]

_HOMES = {
    "create_worker_session_factory": ".engines",
    "tables": ".schema",
    "task_session": ".sessions",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

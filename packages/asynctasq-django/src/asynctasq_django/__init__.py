"""Django model instances as arguments of asynctasq tasks.

Importing this package does not import Django. A task's annotation may say how to load its row:

    async def invoice(order: Annotated[Order, select_related("customer")]) -> None: ...
"""

from .options import (
    Loading,
    defer,
    only,
    prefetch_related,
    select_for_update,
    select_related,
    using,
)

__version__ = "0.1.0"

__all__ = [
    "Loading",
    "defer",
    "only",
    "prefetch_related",
    "select_for_update",
    "select_related",
    "using",
]

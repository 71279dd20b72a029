"""Tasks of Django's that run in processes of their own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from django import tasks
else:
    try:
        from django import tasks
    except ImportError:
        import django_tasks as tasks


@tasks.task(backend="processes")
def end(how: str, *, number: int) -> int:
    if how == "raise":
        raise LookupError("nothing here")
    if how == "crash":
        os._exit(7)
    return number

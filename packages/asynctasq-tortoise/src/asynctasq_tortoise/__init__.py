"""Tortoise ORM instances as arguments of asynctasq tasks, and options for loading their rows."""

from .options import only, prefetch_related, select_for_update, select_related, using

__all__ = ["only", "prefetch_related", "select_for_update", "select_related", "using"]
__version__ = "0.1.0"

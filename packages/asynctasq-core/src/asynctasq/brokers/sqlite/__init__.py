"""The embedded broker: one SQLite file shared by the processes of one machine."""

from .broker import SQLiteBroker

__all__ = ["SQLiteBroker"]

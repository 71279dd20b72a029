"""Log records of child processes, which their worker logs as its own.

Owns the rule that a `process=True` task logs like any other. If the application configures logging
on import, it has done so in the child, too; otherwise records travel to the worker and go where its
own records go.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgpack

from ..tasks.log_filter import TaskLogFilter

#: Fields of a record that do not travel, since they may hold anything.
_LEFT_OUT = frozenset({"args", "exc_info", "msg", "message", "stack_info"})


class LogRelay(logging.Handler):
    """Sends a child's records to its worker."""

    def __init__(self, send: Callable[[bytes], object]) -> None:
        super().__init__()
        self._send = send
        self.addFilter(TaskLogFilter())

    def emit(self, record: logging.LogRecord) -> None:
        """Encode the record, with its message and traceback as text."""
        fields = {k: v for k, v in vars(record).items() if k not in _LEFT_OUT}
        try:
            fields["msg"] = record.getMessage()
            if record.exc_info:
                fields["exc_text"] = logging.Formatter().formatException(record.exc_info)
            packed = msgpack.packb(fields, default=str, unicode_errors="backslashreplace")
        except Exception:  # noqa: BLE001 - whatever the application logs; as handlers do
            self.handleError(record)
        else:
            self._send(packed)


def relay(level: int, send: Callable[[bytes], object]) -> None:
    """In a child whose application has not configured logging: send records to the worker.

    Args:
        level: The worker's log level.
    """
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(LogRelay(send))
        root.setLevel(level)


def log_here(packed: bytes) -> None:
    """In the worker: log what a child logged."""
    record = logging.makeLogRecord(msgpack.unpackb(packed))
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)

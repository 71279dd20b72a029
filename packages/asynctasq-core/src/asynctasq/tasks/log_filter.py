"""Which task a log record belongs to, on every record that is logged while one runs."""

from __future__ import annotations

import logging

from .current import current_run


class TaskLogFilter(logging.Filter):
    """Gives each record that a running task logs, in any module, its `task`, `id` and `attempt`.

    To be added to handlers, since a logger's filters do not see the records of the loggers below
    it. Lets every record pass; fields that a record has already stay, and outside of tasks there
    are none.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields."""
        run = current_run.get(None)
        if run is not None and run.message is not None:
            fields = vars(record)
            fields.setdefault("task", run.message.task)
            fields.setdefault("id", run.message.id)
            fields.setdefault("attempt", run.message.attempt)
        return True

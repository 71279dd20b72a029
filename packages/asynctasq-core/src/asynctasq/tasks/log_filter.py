"""A log filter that marks every record with the task that was running."""

from __future__ import annotations

import logging

from .current import current_run


class TaskLogFilter(logging.Filter):
    """Adds `task`, `id` and `attempt` to each record logged by a running task, in any module.

    Add it to handlers, since a logger's filters do not see records from the loggers below it. It
    lets every record pass, keeps fields that a record already has, and adds none outside tasks.
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

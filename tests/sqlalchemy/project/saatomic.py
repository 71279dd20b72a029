"""Atomic tasks for child processes, which find the database in an environment variable."""

from __future__ import annotations

import os
from typing import Any

from asynctasq import task
from asynctasq_sqlalchemy import task_session
from sashop import Base, Item
from sqlalchemy import create_engine, event
from sqlalchemy.orm import sessionmaker

URL = "SAATOMIC_URL"

if URL in os.environ:
    setattr(  # noqa: B010 - the base does not declare it
        Base, "_asynctasq_session_factory", sessionmaker(create_engine(os.environ[URL]))
    )


@task(process=True, atomic=Item, result_ttl=60, max_attempts=1)
def add(title: str, end: str = "") -> int:
    """Add an item; `end` says whether the process dies in its `body`, or after its `commit`."""
    session = task_session()
    session.add(Item(name=title))
    if end == "commit":
        event.listen(session, "after_commit", _die)
    if end == "body":
        session.flush()
        _die()
    return os.getpid()


def _die(*_: Any) -> None:
    os._exit(9)

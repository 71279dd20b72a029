"""Found by the worker without being named."""

from __future__ import annotations

import logging

from asynctasq import task

from .models import User

logger = logging.getLogger(__name__)


@task
async def rename(user: User, name: str) -> None:
    user.name = name
    await user.asave()


@task
def rename_in_thread(user: User, name: str) -> None:
    user.name = name
    user.save()


@task(process=True)
def rename_in_process(user: User, name: str) -> None:
    user.name = name
    user.save()


@task(max_attempts=1)
def fail() -> None:
    logger.info("of the application")
    raise LookupError("nothing here")

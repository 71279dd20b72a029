"""Peewee model instances as arguments of asynctasq tasks."""

from typing import Any


class prefetch:
    """Load related rows too: `user: Annotated[User, prefetch(Order)]`."""

    def __init__(self, *models: Any) -> None:
        self.models = models

"""What tasks need from the packages above them; each name is set by its owner on import.

Owns the rule that tasks import nothing that sends or runs them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from ..sending.handle import TaskHandle
    from .call import Call
    from .task import Task

R = TypeVar("R")


class Application(Protocol):
    """The application, which sends calls and finds them again."""

    async def dispatch(self, call: Call[R]) -> TaskHandle[R]:
        """As `Call.dispatch`."""

    def dispatch_sync(self, call: Call[R]) -> TaskHandle[R]:
        """As `Call.dispatch_sync`."""

    def handle(self, task: Task[..., R], message_id: str, queue: str | None) -> TaskHandle[R]:
        """As `Task.handle`."""


#: The application as last configured.
current: Callable[[], Application]

#: Loads the adapters, which watch sessions from then on; must happen before any row is written.
load_adapters: Callable[[], object]

#: Whether an object is an instance of some adapter's model.
is_model: Callable[[object], bool]

#: Whether a class is some adapter's model.
is_model_class: Callable[[type], bool]

#: Runs a call here and now.
execute: Callable[[Call[Any]], Awaitable[Any]]

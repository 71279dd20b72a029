"""A pytest plugin that reports what the tested adapters can do and which hooks were not tested.

It imports the suite only inside functions, so that pytest can rewrite its assertions first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .adapters.application import ApplicationUnderTest

#: The capability whose tests cover a hook; other hooks are tested in any case, or by no capability.
_FLAG_OF_HOOK = {
    "is_pending_write": "transactions",
    "after_commit": "transactions",
    "owns_transaction": "transactions",
    "open_transaction": "context_transactions",
    "task_scope": "counts_connections",
    "thread_scope": "knows_connection",
    "own_transaction": "outbox",
    "atomic_transaction": "atomic",
}

_suites = pytest.StashKey["list[type[ApplicationUnderTest]]"]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Remember the classes whose tests run."""
    from .adapters.application import ApplicationUnderTest

    classes = {item.cls for item in session.items if isinstance(item, pytest.Function)}
    suites = [c for c in classes if c is not None and issubclass(c, ApplicationUnderTest)]
    session.config.stash[_suites] = sorted(suites, key=lambda c: c.__qualname__)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print each adapter's capabilities, and its hooks that no test covers."""
    for suite in config.stash.get(_suites, []):
        terminalreporter.section(f"capabilities of {suite.adapter} in {suite.__qualname__}")
        for flag in _flags():
            terminalreporter.line(f"{flag:<22} {'yes' if getattr(suite, flag) else '-'}")
        for line in untested(suite):
            terminalreporter.line(line)


def _flags() -> list[str]:
    from .adapters.application import ApplicationUnderTest

    return [name for name, value in vars(ApplicationUnderTest).items() if isinstance(value, bool)]


def untested(suite: type[ApplicationUnderTest]) -> Iterator[str]:
    """Lines about hooks that the suite skipped because their capability is off."""
    from asynctasq.adapters.plugins import installed

    adapter = installed().loaded.get(suite.adapter)
    for hook, flag in _FLAG_OF_HOOK.items():
        if getattr(adapter, hook, None) is not None and not getattr(suite, flag):
            yield f"the adapter has the hook {hook}, which is not tested: {flag} is off"

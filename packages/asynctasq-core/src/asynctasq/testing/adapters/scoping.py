"""The end of a scope around a `def` task, however the task ends."""

from __future__ import annotations

import builtins
import contextlib
import inspect
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any
from uuid import uuid4

import pytest

from asynctasq import task

from .application import ApplicationUnderTest, needs


class ScopingTests(ApplicationUnderTest):
    """What an adapter does once a `def` task has ended."""

    @needs("sync_tasks")
    async def test_a_thread_scope_does_something_at_its_end_also_when_the_task_fails(self) -> None:
        enter, ends = self.hooks.thread_scope, dict[bool, list[str]]()
        if enter is None or self.asynchronous:
            pytest.skip("the adapter has no thread_scope")

        def watched(
            message: object, instances: Sequence[object]
        ) -> AbstractContextManager[object] | None:
            scope = enter(message, instances)
            return None if scope is None else _Watched(scope, ends)

        def use(name: str) -> None:
            self.save(name)
            if name == "bad":
                raise ValueError(name)

        use_task = task(name=f"use-{uuid4().hex}", max_attempts=1)(use)
        self.hooks.thread_scope = watched
        try:
            await self.send(use_task("good"), use_task("bad"))
            await self.work(concurrency=1)
        finally:
            self.hooks.thread_scope = enter
        if not ends.get(True):
            pytest.skip("the adapter does nothing at the end of a thread_scope")
        assert ends[False], f"after a task that returned: {ends[True][:5]}...; that failed: nothing"


class _Watched(AbstractContextManager[object]):
    """A scope of which is noted what its end calls, by whether the task has returned."""

    def __init__(self, scope: AbstractContextManager[object], ends: dict[bool, list[str]]) -> None:
        self._scope = scope
        self._ends = ends

    def __enter__(self) -> object:
        return self._scope.__enter__()

    def __exit__(self, *error: Any) -> bool | None:
        called = self._ends.setdefault(error[0] is None, [])
        before = sys.getprofile()

        def note(frame: FrameType, event: str, function: Any) -> None:
            if event == "call" and not _is_machinery(frame, self.__exit__.__code__):
                called.append(frame.f_code.co_qualname)
            elif event == "c_call" and not _is_built_in(frame, function):
                called.append(function.__qualname__)

        sys.setprofile(note)
        try:
            return self._scope.__exit__(*error)
        finally:
            sys.setprofile(before)


def _is_machinery(frame: FrameType, ours: object) -> bool:
    """Whether the call only ends the scope itself, or belongs to how context managers work."""
    caller = frame.f_back
    is_scope = caller is not None and caller.f_code is ours
    is_resumed = bool(frame.f_code.co_flags & inspect.CO_GENERATOR)
    return is_scope or is_resumed or frame.f_globals.get("__name__") == contextlib.__name__


def _is_built_in(frame: FrameType, function: Any) -> bool:
    owner = getattr(function, "__self__", None)
    return frame.f_globals.get("__name__") in (contextlib.__name__, __name__) and (
        owner in (builtins, sys) or inspect.isgenerator(owner)
    )

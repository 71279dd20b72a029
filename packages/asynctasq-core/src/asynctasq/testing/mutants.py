"""Deliberate mistakes in an installed adapter, to check that its suite finds them.

Also a pytest plugin, which makes the mistake that `ASYNCTASQ_MUTANT` names.
"""

from __future__ import annotations

import asyncio
import copy
import os
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from asynctasq import AsynctasqError, Ref, ReferenceUnavailable
from asynctasq.adapters.plugins import Adapter, installed

VARIABLE = "ASYNCTASQ_MUTANT"

Fetch = Callable[[Sequence[Ref]], Awaitable[Sequence[Any]]]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One deliberate mistake.

    Attributes:
        what: What is wrong, in words.
        tests: The tests that should find it, as an expression for pytest's `-k`.
        put_in: Makes the mistake in the adapter; false if the adapter lacks that part.
    """

    what: str
    tests: str
    put_in: Callable[[Adapter], bool]


def _in_fetch_many(change: Callable[[Fetch], Fetch]) -> Callable[[Adapter], bool]:
    def put_in(adapter: Adapter) -> bool:
        assert adapter.fetch_many is not None
        adapter.fetch_many = change(adapter.fetch_many)
        return True

    return put_in


def _blocking(fetch: Fetch) -> Fetch:
    async def fetched(refs: Sequence[Ref]) -> Sequence[Any]:
        return await fetch(refs)

    async def fetch_many(refs: Sequence[Ref]) -> Sequence[Any]:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, fetched(refs)).result()

    return fetch_many


def _calling_all_an_outage(fetch: Fetch) -> Fetch:
    async def fetch_many(refs: Sequence[Ref]) -> Sequence[Any]:
        try:
            return await fetch(refs)
        except AsynctasqError:
            raise
        except Exception as e:
            raise ReferenceUnavailable("no answer") from e

    return fetch_many


def _fetching_once(fetch: Fetch, again: Callable[[Any], Any]) -> Fetch:
    async def fetch_many(refs: Sequence[Ref]) -> Sequence[Any]:
        unique = list({(type(ref.pk), ref.pk): ref for ref in refs}.values())
        found = dict(zip(((type(r.pk), r.pk) for r in unique), await fetch(unique), strict=True))
        given: set[Any] = set()
        rows = []
        for ref in refs:
            key = (type(ref.pk), ref.pk)
            rows.append(again(found[key]) if key in given else found[key])
            given.add(key)
        return rows

    return fetch_many


def _in_one_query(fetch: Fetch) -> Fetch:
    """Fetch only the first and the last of thousands, as if one query could ask for all."""

    async def fetch_many(refs: Sequence[Ref]) -> Sequence[Any]:
        if len(refs) < 1000:
            return await fetch(refs)
        first, last = await fetch([refs[0], refs[-1]])
        return [first, *[None] * (len(refs) - 2), last]

    return fetch_many


def _taking_all_options_for_its_own(fetch: Fetch) -> Fetch:
    async def fetch_many(refs: Sequence[Ref]) -> Sequence[Any]:
        for option in refs[0].options:
            option.related  # noqa: B018 - raises for most
        return await fetch(refs)

    return fetch_many


def _without_thread_scope(adapter: Adapter) -> bool:
    had_one = adapter.thread_scope is not None
    adapter.thread_scope = None
    return had_one


def _without_finally(adapter: Adapter) -> bool:
    enter = adapter.thread_scope
    if enter is None:
        return False

    def thread_scope(
        message: object, instances: Sequence[object]
    ) -> AbstractContextManager[object] | None:
        scope = enter(message, instances)
        return None if scope is None else _left_only_in_good_order(scope)

    adapter.thread_scope = thread_scope
    return True


@contextmanager
def _left_only_in_good_order(scope: AbstractContextManager[object]) -> Iterator[None]:
    _entered.append(scope)  # a generator that nobody refers to would end
    scope.__enter__()
    yield
    scope.__exit__(None, None, None)


_entered: list[AbstractContextManager[object]] = []


class _Sends:
    """Whether sends are passed on; the mistakes differ in when they stop."""

    def __init__(self) -> None:
        self.passes_on = True


class _Send:
    """A waiting dispatch, behind a mistake."""

    def __init__(self, send: Any, sends: _Sends, *, gives_up: bool = False) -> None:
        self._send, self._sends, self._gives_up = send, sends, gives_up

    def __call__(self) -> None:
        if self._sends.passes_on:
            with self._noting():
                self._send()

    async def send_async(self) -> None:
        if self._sends.passes_on:
            with self._noting():
                await self._send.send_async()

    def drop(self) -> None:
        self._send.drop()

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            self._sends.passes_on = not self._gives_up
            raise


def _giving_up_after_an_error(adapter: Adapter) -> bool:
    hold, sends = adapter.after_commit, _Sends()
    if hold is None:
        return False
    adapter.after_commit = lambda obj, send: hold(obj, _Send(send, sends, gives_up=True))
    return True


def _waiting_for_what_has_ended(adapter: Adapter) -> bool:
    hold = adapter.after_commit
    if hold is None or adapter.owns_transaction is None:
        return False

    def after_commit(obj: object, send: object) -> None:
        sends = _Sends()
        sends.passes_on = False
        try:
            hold(obj, _Send(send, sends))
        except AsynctasqError:
            return
        sends.passes_on = True

    adapter.after_commit = after_commit
    return True


def _importing_its_orm(adapter: Adapter) -> bool:
    from .adapters import importing  # already imported by the suite, with rewritten assertions

    at_the_top = "for name in sys.argv[2:]: __import__(name)\n"
    importing.PROGRAM = importing.PROGRAM.replace("found =", f"{at_the_top}found =")
    return True


MUTANTS = {
    "blocks": Mutant("fetch_many blocks the event loop", "loop_goes_on", _in_fetch_many(_blocking)),
    "outage": Mutant(
        "every error is an outage",
        "missing_table",
        _in_fetch_many(_calling_all_an_outage),
    ),
    "same": Mutant(
        "one instance is returned twice",
        "same_key_twice or never_share or share",
        _in_fetch_many(lambda fetch: _fetching_once(fetch, lambda row: row)),
    ),
    "shallow": Mutant(
        "copies of a row share its related objects",
        "share_nothing or share_none",
        _in_fetch_many(lambda fetch: _fetching_once(fetch, copy.copy)),
    ),
    "no-chunks": Mutant(
        "thousands of keys in one query", "thousands", _in_fetch_many(_in_one_query)
    ),
    "options": Mutant(
        "another package's option is taken for its own",
        "options_of_others",
        _in_fetch_many(_taking_all_options_for_its_own),
    ),
    "imports": Mutant("it imports its ORM at the top", "imports_no_orm", _importing_its_orm),
    "no-thread-scope": Mutant("there is no thread_scope", "connection", _without_thread_scope),
    "no-finally": Mutant(
        "thread_scope leaves out its end when the task fails", "connection", _without_finally
    ),
    "sends": Mutant(
        "one send's error stops the others",
        "send_that_fails",
        _giving_up_after_an_error,
    ),
    "ended": Mutant(
        "a call waits for a transaction that has ended",
        "has_ended",
        _waiting_for_what_has_ended,
    ),
}

#: The exit code if no test of the mistake ran: its capability is off, or the part is missing.
NOT_TESTED = int(pytest.ExitCode.NO_TESTS_COLLECTED)

_ran = pytest.StashKey[list[str]]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Make the mistake, once the suite's module has been imported without it."""
    session.config.stash[_ran] = []
    item = next((i for i in session.items if isinstance(i, pytest.Function) and i.cls), None)
    if item is None or item.cls is None:
        return
    adapter = installed().loaded[item.cls.adapter]
    if not MUTANTS[os.environ[VARIABLE]].put_in(adapter):
        session.items.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember which tests were not skipped."""
    report = yield
    if report.failed or (report.when == "call" and report.passed):
        item.config.stash[_ran].append(item.name)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Report it if all tests were skipped: they have found nothing."""
    if not session.config.stash.get(_ran, []):
        session.exitstatus = NOT_TESTED

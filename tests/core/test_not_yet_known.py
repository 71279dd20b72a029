"""Messages that newer code may know: put off for `unknown_for`, and dead letters only then."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from time import time
from typing import Any
from uuid import uuid4

import asynctasq
import msgpack
import pytest
from asynctasq import Message, current_message, deadletters, task
from asynctasq.app import App
from asynctasq.brokers import Outgoing
from asynctasq.config.settings import Config
from asynctasq.errors import UnknownTask
from asynctasq.wire import class_paths
from asynctasq.worker.postponing import Later, Never, unknown
from process_jobs import item_of
from toy_orm import Toy

Work = Callable[..., Awaitable[None]]


class Color(Enum):
    RED = 1


@dataclass
class Item:
    name: str


@task
async def take(
    value: Any = None, *, item: Item | None = None, color: Color = Color.RED
) -> None: ...


def ext(code: int, value: Any) -> msgpack.ExtType:
    return msgpack.ExtType(code, msgpack.packb(value))


def reference(path: str, orm: str = "toy") -> msgpack.ExtType:
    return ext(1, {f"__orm:{orm}__": 1, "__orm_class__": path})


async def put(*args: Any, name: str = take.name, **changes: Any) -> str:
    app = asynctasq.app.current()
    payload = msgpack.packb([list(args), changes.pop("kwargs", {})])
    sent = Message(uuid4().hex, name, payload, time(), **changes)
    body = sent.encode(app.config.signing_key)
    await app.open_broker().put([Outgoing("default", sent.id, body)])
    return sent.id


def levels(caplog: pytest.LogCaptureFixture, text: str = "task postponed") -> list[int]:
    return [r.levelno for r in caplog.records if r.getMessage() == text]


async def test_a_task_that_becomes_known_runs_with_one_warning_and_all_attempts(
    any_app: App,
    start_worker: Callable[..., Any],
    becomes: Callable[..., Awaitable[None]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    object.__setattr__(any_app.config, "unknown_for", 60.0)
    ran: list[tuple[int, dict[str, str]]] = []
    name = f"deployed.{uuid4().hex}"
    with caplog.at_level(logging.INFO, "asynctasq"):
        await put(name=name, headers={"trace-id": "7"})
        start_worker()
        await becomes(lambda: len(levels(caplog)) >= 3, 30)

    @task(name=name)
    async def deployed() -> None:
        ran.append((current_message().attempt, dict(current_message().headers)))

    await becomes(lambda: ran, 30)
    assert ran == [(1, {"trace-id": "7"})]
    assert levels(caplog).count(logging.WARNING) == 1
    assert await deadletters.list_dead() == []


UNKNOWN: dict[str, tuple[dict[str, Any], str]] = {
    "task": ({"name": "nobody.registered"}, "UnknownTask"),
    "arguments": ({"args": [1, 2, 3]}, "UnknownArguments"),
    "keyword": ({"kwargs": {"more": 1}}, "UnknownArguments"),
    "type": ({"args": [ext(12, ["deployed.Type", {}])]}, "UnknownArguments"),
    "adapter": ({"args": [reference("toy_orm.User", "new")]}, "UnknownModel"),
    "model": ({"args": [reference("toy_orm.Deployed")]}, "UnknownModel"),
    "module": ({"args": [reference("toy_orm.more.Deployed")]}, "UnknownModel"),
    "process": ({"name": item_of.name, "args": [1, 2, 3]}, "UnknownArguments"),
}


@pytest.mark.parametrize("name", UNKNOWN)
async def test_what_newer_code_may_know_is_put_off_before_it_is_dead(
    toy: Toy, work: Work, caplog: pytest.LogCaptureFixture, monkeypatch: Any, name: str
) -> None:
    monkeypatch.setattr(class_paths, "_packages", {"toy_orm"})
    given, error = UNKNOWN[name]
    changes: dict[str, Any] = {**given}
    message_id = await put(*changes.pop("args", ()), **changes)
    await work(modules=["process_jobs"], concurrency=1)
    letter = await deadletters.show(message_id)
    assert letter is not None
    assert letter.reason == "the message cannot be run"
    assert error in letter.error
    assert levels(caplog) == [logging.WARNING]


HOSTILE = {
    "outside": [reference("os.path.join")],
    "no-path": [reference("toy_orm..User")],
    "no-model": [reference("toy_orm.Toy")],
    "key": [ext(1, {"__orm:toy__": [[1]], "__orm_class__": "toy_orm.User"})],
    "extension": [ext(77, [])],
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_what_no_code_will_know_is_dead_at_once(
    toy: Toy, work: Work, caplog: pytest.LogCaptureFixture, monkeypatch: Any, name: str
) -> None:
    asynctasq.init({"driver": "memory"})
    monkeypatch.setattr(class_paths, "_packages", {"toy_orm"})
    message_id = await put(*HOSTILE[name])
    await work()
    assert await deadletters.show(message_id) is not None
    assert levels(caplog) == []


async def test_a_field_and_a_member_that_are_new_are_waited_for(
    app: App, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    names = {cls: name for name, cls in take.annotations.types.items()}
    item = ext(12, [names[Item], {"name": "a", "weight": 3}])
    color = ext(12, [names[Color], 2])
    ids = [await put(kwargs={"item": item}), await put(kwargs={"color": color})]
    await work()
    letters = [await deadletters.show(message_id) for message_id in ids]
    assert ["UnknownArguments" in letter.error for letter in letters if letter] == [True, True]
    assert levels(caplog) == [logging.WARNING] * 2


async def test_the_first_time_travels_with_a_signed_message(
    configure: Callable[..., App], work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    configure(signing_key=b"k" * 32, unknown_for=3600.0)
    first = int((time() - 3601) * 1000)
    message_id = await put(name="nobody.registered", unknown_since_ms=first)
    await work()
    letter = await deadletters.show(message_id)
    assert letter is not None
    assert "UnknownTask" in letter.error
    assert levels(caplog) == []
    sent = Message("id", "t", b"", 1.0, unknown_since_ms=first)
    assert Message.decode(sent.encode([b"k" * 32]), [b"k" * 32]) == sent


def test_the_delay_grows_up_to_some_seconds_and_ends_with_unknown_for() -> None:
    config, message = Config(unknown_for=3600.0), Message("id", "t", b"", 1.0)
    delays: list[float] = []
    for _ in range(10):
        later = unknown(config, message)
        assert isinstance(later, Later)
        message = later.message
        delays.append(later.delay)
    assert delays[0] < 1 < delays[3] < delays[5] < delays[9] + 3 <= 13
    nearly_over = Message("id", "t", b"", 1.0, unknown_since_ms=int((time() - 3599) * 1000))
    last = unknown(config, nearly_over)
    assert isinstance(last, Later)
    assert last.delay <= 1
    over = Message("id", "t", b"", 1.0, unknown_since_ms=int((time() - 3600) * 1000))
    assert isinstance(unknown(config, over), Never)


async def test_a_task_of_newer_code_that_a_task_asks_about_is_its_own_failure(
    app: App, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    @task(max_attempts=1)
    async def raises() -> None:
        raise UnknownTask("somebody else's")

    handle = await raises().dispatch()
    await work()
    letter = await deadletters.show(handle.id)
    assert letter is not None
    assert letter.reason == "no attempt is left"
    assert levels(caplog) == []

"""Django's own Tasks framework, with asynctasq behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import asynctasq
import pytest
from asynctasq import TaskStatus, Worker
from asynctasq_django import prefetch_related
from django.conf import settings
from django.db import connection, connections, transaction
from django.utils import timezone
from djshop.models import User

if TYPE_CHECKING:
    from django import tasks
    from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist
    from django.tasks.signals import task_enqueued, task_finished, task_started
else:
    try:
        from django import tasks
        from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist
        from django.tasks.signals import task_enqueued, task_finished, task_started
    except ImportError:
        tasks = pytest.importorskip("django_tasks", reason="neither django.tasks nor its backport")
        from django_tasks.exceptions import InvalidTaskError as InvalidTask
        from django_tasks.exceptions import TaskResultDoesNotExist
        from django_tasks.signals import task_enqueued, task_finished, task_started

READY, FAILED = tasks.TaskResultStatus.READY, tasks.TaskResultStatus.FAILED
SUCCESSFUL = tasks.TaskResultStatus.SUCCESSFUL


@tasks.task
def greet(user: User, words: list[str]) -> str:
    return f"{user.name}: {' '.join(words)}"


@tasks.task(queue_name="mail")
async def count(user: Annotated[User, prefetch_related("orders")]) -> int:
    return len(user.orders.all())  # type: ignore[attr-defined]


@tasks.task(takes_context=True)
def whoami(context: Any, number: int) -> list[Any]:
    return [context.attempt, context.task_result.id, context.task_result.args, number]


@tasks.task
def fail() -> None:
    raise LookupError("nothing here")


@pytest.fixture(autouse=True)
def _memory_broker(db: str) -> Iterator[None]:
    asynctasq.init(driver="memory", task_defaults={"max_attempts": 1})
    yield
    connection.close()


def work() -> None:
    asyncio.run(Worker(burst=True).run())


def user() -> User:
    return User.objects.create(email="a@example.com", name="Ada")


def test_an_instance_is_enqueued_as_a_reference_and_arrives_fresh() -> None:
    ada = user()
    result = greet.enqueue(ada, words=["good", "day"])
    assert (result.status, result.args) == (READY, [f"djshop.User:{ada.pk}"])
    User.objects.update(name="Lovelace")
    work()
    result.refresh()
    assert (result.status, result.return_value) == (SUCCESSFUL, "Lovelace: good day")
    assert result.attempts == 1
    assert result.started_at is not None


async def test_async_tasks_are_enqueued_and_looked_up_from_async_code() -> None:
    from asgiref.sync import sync_to_async

    result = await count.aenqueue(await User.objects.acreate(email="a@example.com"))
    await Worker(queues=["mail"], burst=True).run()
    found = await count.aget_result(result.id)
    assert found.status == SUCCESSFUL
    value: object = found.return_value
    assert value == 0
    await sync_to_async(connections.close_all)()


def test_an_instance_of_an_open_transaction_waits_for_its_commit() -> None:
    with transaction.atomic():
        result = greet.enqueue(user(), words=[])
        work()
        with pytest.raises(TaskResultDoesNotExist):
            result.refresh()
    work()
    result.refresh()
    assert result.status == SUCCESSFUL


def test_a_task_may_take_its_context() -> None:
    result = whoami.enqueue(7)
    work()
    assert whoami.get_result(result.id).return_value == [1, result.id, [7], 7]


def test_the_error_of_a_failed_task_is_kept_with_its_traceback() -> None:
    result = fail.enqueue()
    work()
    result.refresh()
    assert result.status == FAILED
    (error,) = result.errors
    assert error.exception_class is LookupError
    assert 'raise LookupError("nothing here")' in error.traceback


def test_a_task_can_be_deferred() -> None:
    result = whoami.using(run_after=timezone.now() + timedelta(hours=1)).enqueue(1)
    assert whoami.get_result(result.id).status == READY


def test_arguments_that_do_not_fit_are_refused_at_once() -> None:
    with pytest.raises(TypeError):
        whoami.enqueue()  # type: ignore[call-arg]


def test_a_priority_is_refused() -> None:
    with pytest.raises(InvalidTask, match="priority"):
        whoami.using(priority=5)


def test_an_unknown_result_does_not_exist() -> None:
    for result_id in ("", "x" * 48):
        with pytest.raises(TaskResultDoesNotExist):
            whoami.get_result(result_id)


def test_signals_tell_of_each_step() -> None:
    seen: list[tuple[str, str]] = []
    signals = {"enqueued": task_enqueued, "started": task_started, "finished": task_finished}
    for name, signal in signals.items():
        signal.connect(
            lambda task_result, name=name, **_: seen.append((name, str(task_result.status))),
            weak=False,
            dispatch_uid=name,
        )
    try:
        whoami.enqueue(1)
        work()
    finally:
        for name, signal in signals.items():
            signal.disconnect(dispatch_uid=name)
    assert seen == [("enqueued", "READY"), ("started", "RUNNING"), ("finished", "SUCCESSFUL")]


def test_the_message_is_one_of_asynctasqs_own() -> None:
    result = whoami.enqueue(1)
    app = asynctasq.app.current()

    async def state() -> str | None:
        return await app.open_broker().state("default", result.id[:32])

    assert asyncio.run(state()) == TaskStatus.WAITING


@tasks.task
def give_up(kind: str) -> None:
    raise getattr(asynctasq, kind)("of the task's own")


@pytest.mark.parametrize("queue", ["default", "mail"])
def test_a_task_and_its_signals_know_the_call_by_the_id_that_was_enqueued(queue: str) -> None:
    seen: list[tuple[str, str]] = []

    def note(task_result: Any, **_: Any) -> None:
        seen.append((task_result.id, task_result.task.queue_name))

    for signal in (task_started, task_finished):
        signal.connect(note, dispatch_uid="note")
    try:
        result = whoami.using(queue_name=queue).enqueue(1)
        asyncio.run(Worker(queues=[queue], burst=True).run())
    finally:
        for signal in (task_started, task_finished):
            signal.disconnect(dispatch_uid="note")
    assert seen == [(result.id, queue)] * 2


@pytest.mark.parametrize("kind", ["ResultTimeout", "TaskCancelled", "BrokerUnavailable"])
def test_an_error_of_the_task_is_told_from_one_of_the_look_up(kind: str) -> None:
    result = give_up.enqueue(kind)
    work()
    result.refresh()
    assert result.status == FAILED
    assert result.errors[0].exception_class is getattr(asynctasq, kind)


def test_an_error_of_the_look_up_is_not_the_tasks(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"driver": "sqlite", "sqlite": str(tmp_path / "queue.db")}
    asynctasq.init(settings, signing_key="1" * 16, task_defaults={"max_attempts": 1})
    result = fail.enqueue()
    work()
    asynctasq.init(settings, signing_key="2" * 16)
    with pytest.raises(asynctasq.BadSignature):
        result.refresh()


def test_a_worker_serves_the_queues_of_tasks_and_of_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "asynctasq_django.tasks_backend.AsynctasqBackend"
    ours, others = ["reports", "default"], ["elsewhere"]
    monkeypatch.setattr(
        settings,
        "TASKS",
        {
            "default": {"BACKEND": name, "QUEUES": ours},
            "other": {"BACKEND": f"{tasks.__name__}.backends.dummy.DummyBackend", "QUEUES": others},
        },
    )
    assert {"default", "mail", "reports"} <= set(Worker().queues)
    assert "elsewhere" not in Worker().queues


def test_a_call_on_a_queue_of_its_task_is_run_by_default() -> None:
    result = count.enqueue(user())
    work()
    result.refresh()
    assert result.status == SUCCESSFUL

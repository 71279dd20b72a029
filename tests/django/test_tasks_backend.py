"""Django's own Tasks framework, with asynctasq behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import asynctasq
import pytest
from asynctasq import TaskStatus, Worker
from asynctasq.brokers import ConsumerOptions, Outgoing, WorkerInfo
from asynctasq.tasks.task import registry
from asynctasq_django import prefetch_related
from asynctasq_django.task_options import task_options
from django.conf import settings
from django.db import connection, connections, transaction
from django.test import override_settings
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


def _note(name: str) -> None:
    User.objects.create(email=f"{uuid4().hex}@example.com", name=name)


note = tasks.task(_note)


@contextmanager
def backend_with(**options: Any) -> Iterator[str]:
    """The alias of a backend with these `OPTIONS`."""
    alias = f"policed-{uuid4().hex[:8]}"
    params = {"BACKEND": settings.TASKS["default"]["BACKEND"], "OPTIONS": options}
    with override_settings(TASKS={**settings.TASKS, alias: params}):
        yield alias


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


def test_calls_of_a_higher_priority_run_first() -> None:
    User.objects.all().delete()
    for name, priority in (("low", -5), ("none", 0), ("high", 5)):
        note.using(priority=priority).enqueue(name)
    asyncio.run(Worker(burst=True, concurrency=1).run())
    assert list(User.objects.order_by("pk").values_list("name", flat=True)) == [
        "high",
        "none",
        "low",
    ]


@pytest.mark.parametrize("priority", [101, -101, 0.5])
def test_a_priority_that_there_is_not_is_refused(priority: Any) -> None:
    with pytest.raises(InvalidTask, match="priority"):
        whoami.using(priority=priority)


def test_options_give_every_task_of_the_backend_its_policies() -> None:
    policies = {"unique": asynctasq.Unique(by="name"), "limit": asynctasq.Limit(1, by="name")}
    with backend_with(**policies) as backend:
        single: Any = tasks.task(backend=backend)(_note)
        first, again = single.enqueue("Ada"), single.enqueue("Ada")
        other = single.enqueue("Grace")
        assert first.id == again.id != other.id
        work()
    assert User.objects.filter(name="Ada").count() == 1


def test_options_that_do_not_fit_a_task_are_refused_where_it_is_declared() -> None:
    by_order = backend_with(limit=asynctasq.Limit(1, by="order"))
    with by_order as backend, pytest.raises(asynctasq.ConfigurationError, match="'order'"):
        tasks.task(backend=backend)(_note)
    too_high = backend_with(priority=101)
    with too_high as backend, pytest.raises(asynctasq.ConfigurationError, match="-100 to 100"):
        tasks.task(backend=backend)(_note)


@tasks.task
@task_options(unique=asynctasq.Unique(by="name"), result_ttl=60, max_attempts=3)
@task_options(max_attempts=2, priority=7)
def single(name: str, number: int) -> None:
    _note(name)


def test_one_task_has_options_of_its_own() -> None:
    defaults = asynctasq.app.current().config.task_defaults
    options = registry[f"default:{single.module_path}"].options(defaults)
    assert (options.max_attempts, options.priority, options.result_ttl) == (3, 7, 60)
    enqueued: list[str] = []

    def note_id(task_result: Any, **_: Any) -> None:
        enqueued.append(task_result.id)

    task_enqueued.connect(note_id)
    try:
        first, again = single.enqueue("Ada", 1), single.enqueue("Ada", 2)
    finally:
        task_enqueued.disconnect(note_id)
    assert enqueued == [first.id] == [again.id]
    assert (first.args, again.args) == (["Ada", 1], [])
    work()
    assert User.objects.filter(name="Ada").count() == 1


def test_a_tasks_own_options_win_over_those_of_its_backend() -> None:
    with backend_with(unique=True, max_attempts=5) as backend:
        often: Any = tasks.task(backend=backend)(task_options(unique=False)(_another_note))
        assert often.enqueue("Ada").id != often.enqueue("Ada").id
        work()


def _another_note(name: str) -> None:
    _note(name)


def test_options_of_a_task_that_do_not_fit_are_refused_where_it_is_declared() -> None:
    by_order = task_options(limit=asynctasq.Limit(1, by="order"))
    with pytest.raises(asynctasq.ConfigurationError, match="'order'"):
        tasks.task(by_order(_unlike_the_options))
    with pytest.raises(asynctasq.ConfigurationError, match=r"@task\(queue_name="):
        task_options(queue="mail")
    with pytest.raises(asynctasq.ConfigurationError, match="below @task"):
        task_options(max_attempts=2)(greet)  # type: ignore[type-var]


def _unlike_the_options(name: str) -> None:
    raise AssertionError


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


@tasks.task
async def endless() -> None:
    await asyncio.sleep(3600)


def test_a_call_that_is_cancelled_while_it_runs_has_failed() -> None:
    seen: list[Any] = []

    def note(task_result: Any, **_: Any) -> None:
        seen.append((task_result.id, task_result.status, task_result.errors[0].exception_class))

    async def run() -> None:
        worker = Worker(queues=["default"])
        working = asyncio.create_task(worker.run())
        async with asyncio.timeout(30):
            while not (await asynctasq.calls("running", queue="default")).calls:
                await asyncio.sleep(0.01)
            while not seen:
                await asynctasq.cancel_calls(queue="default", state="running")
                await asyncio.sleep(0.01)
        worker.stop()
        await working

    task_finished.connect(note, dispatch_uid="note")
    try:
        result = endless.enqueue()
        asyncio.run(run())
    finally:
        task_finished.disconnect(dispatch_uid="note")
    assert seen == [(result.id, FAILED, asynctasq.TaskCancelled)]
    result.refresh()
    assert result.status == FAILED
    assert result.errors[0].exception_class is asynctasq.TaskCancelled


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


attempts: list[int] = []


@tasks.task(takes_context=True)
def try_hard(context: Any, word: str, *, until: int = 9) -> str:
    attempts.append(context.attempt)
    if context.attempt < until:
        raise LookupError(word)
    return word


@tasks.task(backend="default")
async def end_otherwise(kind: str) -> object:
    if kind == "timeout":
        await asyncio.sleep(60)
    if kind == "unkept":
        return object()
    raise {"exit": SystemExit, "stop": StopIteration, "key": KeyError}[kind](kind)


@tasks.task
def touch(user: User) -> None:
    user.name = "touched"
    user.save()


class Finished:
    """The results that `task_finished` tells of while it is entered, and what is stored then."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.rows: list[int] = []

    def __enter__(self) -> Finished:
        task_finished.connect(self._note, dispatch_uid="finished")
        return self

    def __exit__(self, *_: object) -> None:
        task_finished.disconnect(dispatch_uid="finished")

    def _note(self, task_result: Any, **_: Any) -> None:
        self.told.append(task_result)
        self.rows.append(User.objects.count())


TIMES = ("enqueued_at", "started_at", "last_attempted_at", "finished_at")
FACTS = ("status", "args", "kwargs", "worker_ids", "attempts", *TIMES)


def facts(result: Any) -> list[Any]:
    return [getattr(result, name) for name in FACTS]


def retry(times: int, **options: Any) -> None:
    asynctasq.init(
        driver="memory", task_defaults={"max_attempts": times, "retry_delay": 0, **options}
    )


@pytest.mark.parametrize("until", [3, 9])
def test_a_result_tells_of_all_attempts_times_workers_and_arguments(until: int) -> None:
    retry(3)
    attempts.clear()
    before = timezone.now()
    with Finished() as finished:
        result = try_hard.enqueue("please", until=until)
        enqueued_at = result.enqueued_at
        assert try_hard.get_result(result.id).enqueued_at == enqueued_at
        work()
    found = try_hard.get_result(result.id)
    assert attempts == [1, 2, 3]
    assert found.status == (SUCCESSFUL if until == 3 else FAILED)
    assert (found.args, found.kwargs, found.attempts) == (["please"], {"until": until}, 3)
    assert len(set(found.worker_ids)) == 1
    assert found.enqueued_at == enqueued_at
    rounded = before - timedelta(milliseconds=1)
    times: list[Any] = [rounded, *(getattr(found, name) for name in TIMES), timezone.now()]
    assert times == sorted(times)
    assert found.started_at != found.last_attempted_at
    (told,) = finished.told
    assert facts(told) == facts(found)
    assert [e.exception_class for e in told.errors] == [e.exception_class for e in found.errors]


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("exit", SystemExit),
        ("stop", RuntimeError),
        ("key", KeyError),
        ("timeout", asynctasq.TaskTimeout),
        ("unkept", asynctasq.SerializationError),
    ],
)
def test_the_signal_says_what_is_stored_however_a_task_ends(
    kind: str, error: type[BaseException]
) -> None:
    retry(1, timeout=0.2)
    with Finished() as finished:
        result = end_otherwise.enqueue(kind)
        work()
    found = end_otherwise.get_result(result.id)
    (told,) = finished.told
    assert facts(told) == facts(found)
    assert (found.status, found.args, found.attempts) == (FAILED, [kind], 1)
    for each in (told, found):
        assert [e.exception_class for e in each.errors] == [error]


@pytest.mark.parametrize(
    ("how", "error", "attempts"),
    [("raise", LookupError, 1), ("crash", asynctasq.TaskCrashed, 1), ("return", None, 1)],
)
def test_a_run_in_a_process_of_its_own_has_a_result_with_its_arguments(
    how: str,
    error: type[BaseException] | None,
    attempts: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from djshop.process_runs import end

    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "djsettings")
    with Finished() as finished:
        result = end.enqueue(how, number=7)
        asyncio.run(Worker(burst=True, modules=["djshop.process_runs"]).run())
    found = end.get_result(result.id)
    (told,) = finished.told
    assert facts(told) == facts(found)
    assert (found.args, found.kwargs, found.attempts) == ([how], {"number": 7}, attempts)
    assert [e.exception_class for e in found.errors] == ([] if error is None else [error])


async def put(message: Outgoing) -> None:
    """Put a message as it is on its queue."""
    await asynctasq.app.current().open_broker().put([message])


async def lose_to_dead_workers(message_queue: str, times: int) -> None:
    """Let workers take the queue's message and die."""
    broker = asynctasq.app.current().open_broker()
    for i in range(times):
        info = WorkerInfo(f"worker-{i}", "host", i, (message_queue,), 1, 0.0)
        consumer = broker.consumer(ConsumerOptions(info, (message_queue,), 60))
        await consumer.start()
        assert await consumer.take(1, 10)
        await broker.release_worker(info.id, (message_queue,))


def test_the_signal_is_sent_for_a_call_whose_workers_died_with_it() -> None:
    asynctasq.init(driver="memory", max_deliveries=2)
    with Finished() as finished:
        result = greet.enqueue(user(), words=[])
        asyncio.run(lose_to_dead_workers("default", 2))
        work()
    result.refresh()
    (told,) = finished.told
    assert (told.id, told.status, result.status) == (result.id, FAILED, FAILED)


def test_the_signal_is_sent_for_a_call_that_cannot_be_read() -> None:
    message = asynctasq.Message("0" * 32, f"default:{greet.module_path}", b"\xc1", 0.0)
    with Finished() as finished:
        asyncio.run(put(Outgoing("default", message.id, message.encode(()))))
        work()
    (told,) = finished.told
    assert (told.id[:32], told.status) == (message.id, FAILED)


@pytest.mark.parametrize("on_missing", ["skip", "fail"])
def test_a_task_whose_row_is_gone_has_a_result_too(on_missing: str) -> None:
    retry(1, on_missing=on_missing)
    ada = user()
    result = touch.enqueue(ada)
    ada.delete()
    with Finished() as finished:
        work()
    found = touch.get_result(result.id)
    assert found.status == (SUCCESSFUL if on_missing == "skip" else FAILED)
    (told,) = finished.told
    assert facts(told) == facts(found)


def test_what_django_logs_of_a_failure_has_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fail.enqueue()
    work()
    records = [r for r in caplog.records if r.name == tasks.__name__ and r.levelname == "ERROR"]
    (exc_info,) = [record.exc_info for record in records]
    assert exc_info is not None
    assert exc_info[0] is LookupError


def test_receivers_of_the_signal_may_use_the_database() -> None:
    with Finished() as finished:
        touch.enqueue(user())
        work()
    assert finished.rows == [1]


@pytest.mark.parametrize("use_tz", [True, False])
def test_times_are_aware_or_naive_as_the_settings_say(use_tz: bool) -> None:
    with override_settings(USE_TZ=use_tz), Finished() as finished:
        now = timezone.now()
        enqueued: list[Any] = [whoami.enqueue(1), fail.enqueue()]
        later = whoami.using(run_after=now + timedelta(hours=1)).enqueue(1)
        assert whoami.get_result(later.id).status == READY
        seen: list[Any] = []
        task_started.connect(
            lambda task_result, **_: seen.append(task_result), weak=False, dispatch_uid="started"
        )
        asynctasq_worker = Worker(queues=["default"])
        try:
            asyncio.run(until_finished(asynctasq_worker, finished))
        finally:
            task_started.disconnect(dispatch_uid="started")
        found = [result.task.get_result(result.id) for result in enqueued]
        for result in [*enqueued, *finished.told, *found, *seen]:
            for name in TIMES:
                time = getattr(result, name)
                if time is not None:
                    assert timezone.is_aware(time) is use_tz
                    assert abs(time - now) < timedelta(minutes=1)
        assert all(result.finished_at for result in found)


async def until_finished(worker: Worker, finished: Finished) -> None:
    """Work until two tasks have finished; one that is due later stays."""
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(20):
        while len(finished.told) < 2:
            await asyncio.sleep(0.01)
    worker.stop()
    await running

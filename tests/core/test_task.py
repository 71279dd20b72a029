"""Tasks in all their forms, and the calls made of them."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import importlib
import inspect
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from pathlib import Path
from time import time
from typing import Any
from uuid import uuid4

import pytest
from asynctasq import (
    AsyncTask,
    Call,
    ConfigurationError,
    SyncTask,
    TaskConfig,
    TaskFailed,
    TaskStatus,
    current_message,
    dispatch_many,
    task,
)
from asynctasq.app import App
from asynctasq.tasks.options import TaskOptions
from asynctasq.tasks.schedule import SCHEDULING
from asynctasq.tasks.task import registry

Work = Callable[..., Awaitable[None]]

ran: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


class NoOffset(tzinfo):
    """A time zone that makes no datetime aware."""

    def utcoffset(self, moment: datetime | None) -> None: ...

    def dst(self, moment: datetime | None) -> None: ...

    def tzname(self, moment: datetime | None) -> None: ...


@task(result_ttl=60)
async def on_loop(a: int, /, b: int = 2, *rest: int, c: int, d: int = 4, **more: int) -> object:
    ran.append(threading.current_thread().name)
    return [a, b, list(rest), c, d, more]


@task(result_ttl=60)
def in_thread(a: int, b: int = 2) -> int:
    ran.append(threading.current_thread().name)
    return a + b


async def test_async_tasks_run_on_the_loop_with_every_kind_of_parameter(
    any_app: App, work: Work
) -> None:
    handle = await on_loop(1, 5, 6, 7, c=3, e=8).dispatch()
    short = await on_loop(1, c=3).dispatch()
    await work()
    assert await handle.result(5) == [1, 5, [6, 7], 3, 4, {"e": 8}]
    assert await short.result(5) == [1, 2, [], 3, 4, {}]
    assert set(ran) == {"MainThread"}


async def test_plain_functions_run_in_threads(any_app: App, work: Work) -> None:
    handle = await in_thread(1, b=5).dispatch()
    await work()
    assert await handle.result(5) == 6
    assert ran[0].startswith("asynctasq")


async def test_threads_see_the_message_and_its_context(app: App, work: Work) -> None:
    @task(result_ttl=60)
    def whoami() -> list[object]:
        message = current_message()
        return [message.id, message.attempt, dict(message.headers)]

    handle = await whoami().with_headers({"trace": "1"}).with_headers({"span": "2"}).dispatch()
    await work()
    assert await handle.result(5) == [handle.id, 1, {"trace": "1", "span": "2"}]
    with pytest.raises(LookupError):
        current_message()


async def test_tasks_do_not_share_context_variables(app: App, work: Work) -> None:
    variable: ContextVar[int] = ContextVar("variable", default=0)

    @task(result_ttl=60)
    async def count() -> int:
        variable.set(variable.get() + 1)
        await asyncio.sleep(0)
        return variable.get()

    handles = await dispatch_many([count() for _ in range(5)])
    await work()
    assert [await h.result(5) for h in handles] == [1] * 5


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "missing a required argument: 'a'"),
        ((1, 2, 3), {}, "too many positional"),
        ((1,), {"a": 2}, "multiple values for argument 'a'"),
        ((1,), {"x": 2}, "unexpected keyword argument 'x'"),
        ((), {"b": 2}, "missing a required argument: 'a'"),
        ((), {"aa": 2}, r"in_thread: missing a required argument: 'a'; there is no 'aa'"),
    ],
)
def test_wrong_arguments_are_a_type_error_at_the_call(
    args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        in_thread(*args, **kwargs)


def test_the_task_still_shows_its_function() -> None:
    assert in_thread.function(1, 2) == 3
    assert in_thread.name == f"{__name__}.in_thread"
    assert in_thread.__name__ == "in_thread"
    assert repr(in_thread(1)) == f"<Call of {in_thread.name}>"


def test_a_name_belongs_to_one_function() -> None:
    @task(name="test-names.shared")
    def first() -> None: ...

    with pytest.raises(ConfigurationError, match=r"two tasks are named 'test-names\.shared'"):

        @task(name="test-names.shared")
        def second() -> None: ...

    assert registry["test-names.shared"] is first


SAME_NAME = {
    "closures": """
        def make(n):
            @task
            def job(): ...
            return job

        one = make(1)
        two = make(2)
    """,
    "a loop": """
        for n in range(2):
            @task
            def job(): ...
    """,
    "a decorator without wraps": """
        def logged(function):
            def wrapper(*args):
                return function(*args)
            return wrapper

        @task
        @logged
        def one(): ...

        @task
        @logged
        def two(): ...
    """,
    "two of one module": """
        @task
        def job(): ...

        @task
        def job(): ...
    """,
    "one function twice": """
        def job(): ...

        quick = task(job)
        slow = task(timeout=5)(job)
    """,
    "classes": """
        def make(n):
            class Job(SyncTask):
                def execute(self): ...
            return Job

        one = make(1)
        two = make(2)
    """,
    "one name given twice": """
        for n in range(2):
            @task(name="job-of-test")
            def job(): ...
    """,
}


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Writes a module that can be imported while the test runs; gives its name."""
    monkeypatch.syspath_prepend(tmp_path)
    before, known = set(sys.modules), set(registry)

    def write(source: str, name: str = "") -> str:
        name = name or f"declared_{uuid4().hex[:8]}"
        text = f"from asynctasq import SyncTask, task\n{textwrap.dedent(source)}"
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        return name

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]
    for name in set(registry) - known:
        del registry[name]


@pytest.mark.parametrize("case", SAME_NAME)
def test_two_functions_of_one_name_are_refused(write_module: Callable[..., str], case: str) -> None:
    name = write_module(SAME_NAME[case])
    place = rf"\S*{name}\.py:\d+"
    with pytest.raises(ConfigurationError, match=rf"two tasks are named .* {place} and {place}: "):
        importlib.import_module(name)


def test_a_decorator_of_two_modules_makes_two_functions(write_module: Callable[..., str]) -> None:
    decorator = write_module(SAME_NAME["a decorator without wraps"].partition("@task")[0])
    using = f"from {decorator} import logged\n@task\n@logged\ndef job(): ...\n"
    importlib.import_module(write_module(using))
    with pytest.raises(ConfigurationError, match="two tasks are named"):
        importlib.import_module(write_module(using))


@pytest.mark.parametrize("case", SAME_NAME)
def test_a_module_that_is_imported_again_declares_its_tasks_again(
    write_module: Callable[..., str], case: str
) -> None:
    """Each with its first task only, which the second import replaces."""
    source = textwrap.dedent(SAME_NAME[case]).replace("range(2)", "range(1)")
    first, _, _ = source.partition("two =")
    first, _, _ = first.partition("slow =")
    if source.count("@task\n") > 1:
        first = "@task\n".join(source.split("@task\n")[:2])
    module = importlib.import_module(write_module(first))
    [before] = [t for t in registry.values() if t.declared.module == module.__name__]
    importlib.reload(module)
    [after] = [t for t in registry.values() if t.declared.module == module.__name__]
    assert after is not before


def test_a_cell_of_a_notebook_may_run_again() -> None:
    cell = compile("@task\ndef job(): ...", "<cell>", "exec")
    names = {"__name__": "notebook_of_test", "task": task}
    for _ in range(2):
        exec(cell, names)
    assert registry["notebook_of_test.job"] is names["job"]


@pytest.mark.parametrize("n", range(3))
def test_a_function_that_runs_again_declares_its_tasks_again(n: int) -> None:
    @task
    def local() -> int:
        return n

    assert registry[local.name] is local


@pytest.mark.parametrize(
    ("declare", "problem"),
    [
        (lambda: task(functools.partial(print, 1)), "a task of partial needs a name"),
        (lambda: task(Doubler(2)), "a task of Doubler needs a name"),
        (lambda: task(Doubler), "Doubler is a class"),
        (lambda: task(in_thread), "is a task already"),
        (lambda: task("reports"), "a task is a function, not str"),  # type: ignore[call-overload]
        (lambda: task(classmethod(print)), "a task is a function, not classmethod"),  # type: ignore[call-overload]
    ],
)
def test_what_cannot_be_a_task_is_refused_at_once(
    declare: Callable[[], object], problem: str
) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        declare()


class Doubler:
    """An object that can be called."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, n: int) -> int:
        return self.factor * n


class AsyncDoubler(Doubler):
    async def __call__(self, n: int) -> int:  # type: ignore[override]
        return self.factor * n


def scaled(factor: int, n: int, *, by: int = 1) -> int:
    return factor * n * by


async def scaled_on_loop(factor: int, n: int) -> int:
    return factor * n


class Methods:
    @task(result_ttl=60)
    @staticmethod
    def doubled(n: int) -> int:
        return 2 * n

    @staticmethod
    @task(result_ttl=60)
    async def doubled_on_loop(n: int) -> int:
        return 2 * n


double = task(name="test-task.double", result_ttl=60)(Doubler(2))
double_on_loop = task(name="test-task.double-on-loop", result_ttl=60)(AsyncDoubler(2))
twice = task(name="test-task.twice", result_ttl=60)(functools.partial(scaled, 2, by=1))
twice_on_loop = task(name="test-task.twice-on-loop", result_ttl=60)(
    functools.partial(scaled_on_loop, 2)
)


@pytest.mark.parametrize(
    "declared",
    [double, double_on_loop, twice, twice_on_loop, Methods.doubled, Methods().doubled_on_loop],
    ids=lambda t: t.name,
)
async def test_whatever_can_be_called_can_be_a_task(app: App, work: Work, declared: Any) -> None:
    handle = await declared(n=21).dispatch()
    await work()
    assert await handle.result(5) == 42
    with pytest.raises(TypeError):
        declared(m=21)


async def test_a_parameter_may_be_named_self(app: App, work: Work) -> None:
    @task(result_ttl=60)
    def named(self: int, cls: int, task: int) -> list[int]:
        return [self, cls, task]

    handle = await named(self=1, cls=2, task=3).dispatch()
    await work()
    assert await handle.result(5) == [1, 2, 3]


async def test_a_decorated_coroutine_function_is_not_lost(app: App, work: Work) -> None:
    def passing(function: Callable[[], Any]) -> Callable[[], Any]:
        @functools.wraps(function)
        def wrapper() -> Any:
            return function()

        return wrapper

    @task(result_ttl=60, max_attempts=1)
    @passing
    async def wrapped() -> int:
        return 1

    handle = await wrapped().dispatch()
    await work()
    with pytest.raises(TypeError, match="declare it `async def`"):
        await handle.result(5)


# --- calls ------------------------------------------------------------------------------


def test_each_chained_method_gives_a_new_call() -> None:
    call = in_thread(1)
    changed: list[Call[int]] = [
        call.on_queue("q"),
        call.delay(5),
        call.at(datetime.now(UTC)),
        call.retry_after(5),
        call.max_attempts(2),
        call.timeout(3),
        call.on_commit(False),
        call.with_headers({"a": "b"}),
    ]
    assert len({id(c) for c in [call, *changed]}) == 9
    assert (call.queue, call.due, call.overrides, call.wait_for, call.headers) == (None,) * 5
    combined = call.on_queue("q").max_attempts(2).timeout(3).retry_after(1).delay(9)
    assert combined.queue == "q"
    assert combined.overrides == {"max_attempts": 2, "timeout": 3, "retry_delay": 1}
    assert combined.due == pytest.approx(time() + 9, abs=2)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda c: c.on_queue(""), ConfigurationError),
        (lambda c: c.on_queue("a b"), ConfigurationError),
        (lambda c: c.on_queue("{x}"), ConfigurationError),
        (lambda c: c.delay(-1), ValueError),
        (lambda c: c.delay(float("nan")), ValueError),
        (lambda c: c.delay(float("inf")), ValueError),
        (lambda c: c.delay("5"), TypeError),
        (lambda c: c.at("tomorrow"), TypeError),
        (lambda c: c.retry_after(-1), ConfigurationError),
        (lambda c: c.max_attempts(0), ConfigurationError),
        (lambda c: c.max_attempts("2"), ConfigurationError),
        (lambda c: c.timeout(0), ConfigurationError),
        (lambda c: c.timeout("1"), ConfigurationError),
        (lambda c: c.retry_after(Decimal(1)), ConfigurationError),
        (lambda c: c.retry_after(timedelta(seconds=1)), ConfigurationError),
        (lambda c: c.max_attempts(True), ConfigurationError),
        (lambda c: c.delay(True), ValueError),
        (lambda c: c.on_commit(None), TypeError),
        (lambda c: c.with_headers({"trace": 7}), TypeError),
        (lambda c: c.with_headers({7: "trace"}), TypeError),
    ],
)
def test_chained_values_are_checked_at_once(
    change: Callable[[Any], Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        change(in_thread(1))


async def test_a_call_goes_to_the_queue_it_names(any_app: App, work: Work) -> None:
    handle = await in_thread(1).on_queue("other").dispatch()
    assert handle.queue == "other"
    await work(queues=["other"])
    assert await handle.result(5) == 3


async def test_delayed_calls_wait(any_app: App, work: Work) -> None:
    started = time()
    soon = await in_thread(1).delay(0.4).dispatch()
    moment = datetime.now(UTC) + timedelta(seconds=0.4)
    at = await in_thread(2).at(moment).dispatch()
    local = datetime.now().astimezone() + timedelta(seconds=0.4)
    at_local = await in_thread(3).at(local).dispatch()
    assert await soon.status() is TaskStatus.DELAYED
    await work()
    assert time() - started >= 0.4
    assert [await h.result(5) for h in (soon, at, at_local)] == [3, 4, 5]


async def test_a_moment_in_the_past_is_now(any_app: App, work: Work) -> None:
    handle = await in_thread(1).at(datetime(2000, 1, 1, tzinfo=UTC)).dispatch()
    await work()
    assert await handle.result(5) == 3


async def test_a_call_can_be_dispatched_twice(app: App, work: Work) -> None:
    call = in_thread(1)
    first, second = await call.dispatch(), await call.dispatch()
    assert first.id != second.id
    await work()
    assert len(ran) == 2


async def test_execute_runs_here_and_now_with_the_arguments_themselves(app: App) -> None:
    @task
    async def same(value: object) -> object:
        return value

    @task
    def same_in_thread(value: object) -> object:
        return value

    marker = object()
    assert await same(marker).execute() is marker
    assert await same_in_thread(marker).execute() is marker
    with pytest.raises(TypeError):
        await failing(marker).execute()


@task
async def failing(_: object) -> None:
    raise TypeError("as raised")


async def test_execute_gives_a_message_and_takes_it_away_again(app: App) -> None:
    @task
    def attempt() -> int:
        return current_message().attempt

    assert await attempt().execute() == 1
    with pytest.raises(LookupError):
        current_message()


# --- class-based tasks ------------------------------------------------------------------


class Add(AsyncTask[int]):
    """Adds."""

    config: TaskConfig = {"result_ttl": 60, "queue": "sums"}

    def __init__(self, a: int, b: int = 2) -> None:
        self.a, self.b = a, b

    async def execute(self) -> int:
        return self.a + self.b


class AddInThread(SyncTask[str]):
    config: TaskConfig = {"result_ttl": 60}

    def __init__(self, *, a: int) -> None:
        self.a = a

    def execute(self) -> str:
        return f"{self.a} in {threading.current_thread().name}"


class NoArguments(AsyncTask[int]):
    config: TaskConfig = {"result_ttl": 60}

    async def execute(self) -> int:
        return 7


async def test_class_based_tasks_run_by_their_constructor_arguments(
    any_app: App, work: Work
) -> None:
    handles: list[Any] = [
        await Add(1, b=5).dispatch(),
        await AddInThread(a=1).dispatch(),
        await NoArguments().dispatch(),
    ]
    assert handles[0].queue == "sums"
    await work(queues=["default", "sums"])
    assert await handles[0].result(5) == 6
    assert (await handles[1].result(5)).startswith("1 in asynctasq")
    assert await handles[2].result(5) == 7


async def test_class_based_tasks_chain_and_go_in_bulk(app: App, work: Work) -> None:
    handles = await dispatch_many([Add(1), Add(2).on_queue("x"), AddInThread(a=3), in_thread(4)])
    assert [h.queue for h in handles] == ["sums", "x", "default", "default"]
    call = Add(1).delay(5).max_attempts(2).timeout(3).retry_after(1)
    assert call.overrides == {"max_attempts": 2, "timeout": 3, "retry_delay": 1}


@pytest.mark.parametrize("moment", [datetime(2030, 1, 1), datetime(2030, 1, 1, tzinfo=NoOffset())])
def test_a_moment_without_a_time_zone_is_refused(moment: datetime) -> None:
    with pytest.raises(ValueError, match=r"aware datetimes only; .*moment\.astimezone\(\)"):
        in_thread(1).at(moment)


@pytest.mark.parametrize("kind", [AsyncTask, SyncTask])
def test_class_based_tasks_have_each_method_of_a_call(kind: type) -> None:
    methods = {n for n in dir(Call) if callable(getattr(Call, n)) and not n.startswith("_")}
    assert methods - set(dir(kind)) == {"execute", "options"}


async def test_a_class_based_task_runs_here_and_now(app: App) -> None:
    assert await Add(1).execute() == 3
    assert await Add(1).on_queue("x").execute() == 3
    assert AddInThread(a=1).execute().startswith("1 in MainThread")


def test_wrong_constructor_arguments_are_a_type_error_at_the_call() -> None:
    with pytest.raises(TypeError, match="missing a required argument: 'a'"):
        Add()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        NoArguments(1)  # type: ignore[call-arg]


def test_execute_must_be_of_the_kind_of_the_class() -> None:
    with pytest.raises(TypeError, match="execute must be `async def`"):

        class Wrong(AsyncTask[int]):
            def execute(self) -> int:
                return 1

    with pytest.raises(TypeError, match="execute must be `def`"):

        class AlsoWrong(SyncTask[int]):
            async def execute(self) -> int:
                return 1


@dataclass
class Resize(AsyncTask[list[object]]):
    config = {"result_ttl": 60}

    path: str
    sizes: list[int] = field(default_factory=lambda: [100])

    async def execute(self) -> list[object]:
        return [self.path, self.sizes]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizeInThread(SyncTask[str]):
    path: str

    config = {"result_ttl": 60}

    def execute(self) -> str:
        return self.path


async def test_a_dataclass_can_be_a_task(app: App, work: Work) -> None:
    handles: list[Any] = [
        await Resize("a.png").dispatch(),
        await Resize("b.png", sizes=[1, 2]).on_queue("default").dispatch(),
        await ResizeInThread(path="c.png").dispatch(),
    ]
    await work()
    assert [await h.result(5) for h in handles] == [["a.png", [100]], ["b.png", [1, 2]], "c.png"]
    assert [f.name for f in dataclasses.fields(Resize)] == ["path", "sizes"]
    with pytest.raises(TypeError, match="missing a required argument: 'path'"):
        Resize()  # type: ignore[call-arg]
    assert registry[ResizeInThread._task.name].cls is ResizeInThread


def test_an_annotated_configuration_is_no_field_of_a_dataclass() -> None:
    @dataclass
    class Annotated(AsyncTask[None]):
        config: TaskConfig = {"queue": "images"}  # noqa: RUF008
        path: str  # type: ignore[misc]

        async def execute(self) -> None: ...

    assert [f.name for f in dataclasses.fields(Annotated)] == ["path"]
    assert Annotated("a.png").delay(1).args == ("a.png",)  # type: ignore[arg-type, call-arg]


async def test_a_subclass_of_a_task_is_a_task_of_its_own(app: App, work: Work) -> None:
    class Twice(Add):
        async def execute(self) -> int:
            return 2 * await super().execute()

    assert Twice._task.name != Add._task.name
    handle = await Twice(1).dispatch()
    await work(queues=["sums"])
    assert await handle.result(5) == 6


# --- names ------------------------------------------------------------------------------

SCRIPT = """
import asynctasq, sys

@asynctasq.task
def f(): ...

class C(asynctasq.AsyncTask):
    async def execute(self): ...

print(f.name, C._task.name)
"""


def run_python(*arguments: str, cwd: Path) -> str:
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_tasks_of_a_script_bear_the_scripts_name(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app/__init__.py").touch()
    for name in ("script.py", "app/__main__.py", "app/module.py"):
        (tmp_path / name).write_text(SCRIPT)
    assert run_python("script.py", cwd=tmp_path) == "script.f script.C"
    assert run_python("-m", "app", cwd=tmp_path) == "app.f app.C"
    assert run_python("-m", "app.module", cwd=tmp_path) == "app.module.f app.module.C"
    assert run_python("-c", "import script", cwd=tmp_path) == "script.f script.C"


async def test_a_task_that_the_worker_does_not_know_is_a_dead_letter(app: App, work: Work) -> None:
    @task(name="test-names.unknown", result_ttl=60)
    def unknown() -> None: ...

    handle = await unknown().dispatch()
    del registry["test-names.unknown"]
    await work()
    assert await handle.status() is TaskStatus.DEAD
    assert TaskFailed is not None


def test_the_options_that_a_type_checker_knows_are_those_that_a_task_has() -> None:
    """`TaskConfig` says it for callers, since no type checker reads it from a dataclass."""
    checked = set(TaskConfig.__annotations__)
    assert checked == {field.name for field in dataclasses.fields(TaskOptions)} | set(SCHEDULING)
    described = re.findall(r"^    (\w+): ", inspect.getdoc(TaskConfig) or "", re.MULTILINE)
    assert sorted(described) == sorted(checked)

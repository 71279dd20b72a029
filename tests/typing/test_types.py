"""The promises of the public API's types, checked with mypy.

Each program's lines that end in `# E: text` must be errors whose message holds the text; all other
lines must be none. `reveal_type` lines end in `# T: type`.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest
from mypy import api

HEAD = """
from __future__ import annotations

import datetime
from typing import Any, reveal_type

from asynctasq import (
    AsyncTask, Batch, Call, SyncTask, Task, TaskConfig, TaskHandle, dispatch_many, task,
)
"""

PROGRAMS = {
    "async task": """
        @task
        async def add(a: int, b: int = 2, *, c: str = "") -> float:
            return float(a + b)

        reveal_type(add)  # T: Task[[a: int, b: int =, *, c: str =], float]
        reveal_type(add(1))  # T: Call[float]
        add()  # E: Missing positional argument "a"
        add("1")  # E: Argument 1 to "__call__" of "Task" has incompatible type "str"
        add(1, d=2)  # E: Unexpected keyword argument "d"
        add(1, 2, "c")  # E: Too many positional arguments
        add(a=1, b=2, c="c")
    """,
    "sync task": """
        @task
        def add(a: int) -> list[int]:
            return [a]

        reveal_type(add(1))  # T: Call[list[int]]
        add(None)  # E: Argument 1 to "__call__" of "Task"
        add.function(1).append(2)
    """,
    "calls that follow": """
        @task
        async def first(a: int) -> str:
            return str(a)

        @task
        def second(text: str, times: int = 1) -> list[str]:
            return [text] * times

        class Third(AsyncTask[float]):
            def __init__(self, texts: list[str]) -> None: ...
            async def execute(self) -> float:
                return 1.0

        reveal_type(first(1).then(second))  # T: Call[list[str]]
        reveal_type(first(1).then(second, times=2).then(Third))  # T: Call[float]
        reveal_type(Third([]).then(first(1)))  # T: Call[str]
        first(1).then(first)  # E: No overload variant of "then"
        first(1).then(second, "2")  # E: No overload variant of "then"
        first(1).then(Third)  # E: No overload variant of "then"

        async def run() -> None:
            handle = await first(1).then(second).dispatch()
            reveal_type(handle)  # T: TaskHandle[list[str]]
            reveal_type(await handle.result())  # T: list[str]
            reveal_type(handle.parent)  # T: TaskHandle[Any] | None
            inner = Batch([first(2)])
            batch = await Batch([first(1), Third([]), inner], then=second("x")).dispatch()
            reveal_type(batch.children)  # T: list[TaskHandle[Any]]
            Batch([first])  # E: List item 0 has incompatible type
    """,
    "options": """
        @task(
            name="add", queue="q", max_attempts=3, retry_delay=1.5, retry_strategy="fixed",
            retry_jitter=False, retry_on=(ValueError, KeyError), timeout=None, on_missing="skip",
            result_ttl=60,
        )
        async def add(a: int) -> int:
            return a

        @task(process=True)
        def heavy(a: int) -> int:
            return a

        reveal_type(add(1))  # T: Call[int]
        reveal_type(heavy(1))  # T: Call[int]
        add("x")  # E: Argument 1 to "__call__" of "Task"
        task(queue=1)  # E: No overload variant of "task" matches
        task(retries=1)  # E: Unexpected keyword argument "retries"
        task(on_missing="explode")  # E: No overload variant of "task" matches
        task(retry_strategy="linear")  # E: No overload variant of "task" matches
    """,
    "chaining": """
        @task
        async def add(a: int) -> int:
            return a

        call = add(1)
        reveal_type(call.on_queue("q"))  # T: Call[int]
        reveal_type(call.delay(5).max_attempts(2).timeout(1.5))  # T: Call[int]
        reveal_type(call.retry_after(5))  # T: Call[int]
        reveal_type(call.at(datetime.datetime.now()))  # T: Call[int]
        reveal_type(call.on_commit(False))  # T: Call[int]
        reveal_type(call.with_headers({"a": "b"}))  # T: Call[int]
        call.delay("5")  # E: Argument 1 to "delay"
        call.at(5)  # E: Argument 1 to "at"
        call.max_attempts(1.5)  # E: Argument 1 to "max_attempts"
        call.on_queue(1)  # E: Argument 1 to "on_queue"
    """,
    "dispatching": """
        @task
        async def add(a: int) -> dict[str, int]:
            return {"a": a}

        async def main() -> None:
            handle = await add(1).dispatch()
            reveal_type(handle)  # T: TaskHandle[dict[str, int]]
            reveal_type(handle.id)  # T: str
            reveal_type(await handle.result(timeout=5))  # T: dict[str, int]
            reveal_type(await handle.cancel())  # T: bool
            reveal_type(await handle.status())  # T: TaskStatus
            reveal_type(add(1).dispatch_sync())  # T: TaskHandle[dict[str, int]]
            reveal_type(await add(1).execute())  # T: dict[str, int]
            reveal_type(await dispatch_many([add(1), add(2)]))  # T: list[TaskHandle[Any]]
            await dispatch_many([1])  # E: List item 0 has incompatible type "int"
    """,
    "covariance": """
        @task
        async def flag(a: int) -> bool:
            return True

        def takes_any(call: Call[int]) -> None: ...

        takes_any(flag(1))
    """,
    "class-based": """
        class Add(AsyncTask[int]):
            config: TaskConfig = {"queue": "q", "max_attempts": 3}

            def __init__(self, a: int, *, b: str = "") -> None:
                self.a = a

            async def execute(self) -> int:
                return self.a

            def should_retry(self, exc: BaseException) -> bool:
                return False

            async def failed(self, exc: BaseException) -> None: ...

        class AddSync(SyncTask[str]):
            def execute(self) -> str:
                return ""

        async def main() -> None:
            reveal_type(await Add(1).dispatch())  # T: TaskHandle[int]
            reveal_type(await (await Add(1, b="x").dispatch()).result())  # T: int
            reveal_type(Add(1).delay(5).on_queue("x"))  # T: Call[int]
            reveal_type(AddSync().dispatch_sync())  # T: TaskHandle[str]
            reveal_type(AddSync().execute())  # T: str
            reveal_type(await dispatch_many([Add(1), AddSync()]))  # T: list[TaskHandle[Any]]
            Add("x")  # E: Argument 1 to "Add" has incompatible type "str"
            Add()  # E: Missing positional argument "a"
            AddSync(1)  # E: Too many arguments for "AddSync"
    """,
    "wrong configuration of a class": """
        class Wrong(AsyncTask[int]):
            config: TaskConfig = {"queues": "q"}  # E: Extra key "queues" for TypedDict

            async def execute(self) -> int:
                return 1
    """,
}


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[str], str]]:
    """For each program its lines, and what mypy says of it; all in one run, which is slow."""
    folder = tmp_path_factory.mktemp("programs")
    (folder / "mypy.ini").write_text("[mypy]\nstrict = true\n")
    files = {}
    for name, program in PROGRAMS.items():
        files[name] = folder / f"{name.replace(' ', '_').replace('-', '_')}.py"
        files[name].write_text(HEAD + textwrap.dedent(program))
    cache = str(tmp_path_factory.mktemp("cache"))
    config = ["--config-file", str(folder / "mypy.ini"), "--cache-dir", cache, "--no-error-summary"]
    output, problem, _ = api.run([*config, "--hide-error-context", *map(str, files.values())])
    assert problem == ""
    return {
        name: (file.read_text().splitlines(), _of(file, output)) for name, file in files.items()
    }


def _of(file: Path, output: str) -> str:
    return "\n".join(line for line in output.splitlines() if f"/{file.name}:" in f"/{line}")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PROGRAMS)
def test_types_are_as_promised(reports: dict[str, tuple[list[str], str]], name: str) -> None:
    lines, report = reports[name]
    found: dict[int, list[str]] = {}
    for number, text in re.findall(r":(\d+): (?:error|note): (.*)", report):
        found.setdefault(int(number), []).append(text)
    for number, line in enumerate(lines, start=1):
        _check(line, found.pop(number, []), f"line {number}")
    assert found == {}


def _check(line: str, said: Sequence[str], where: str) -> None:
    _, is_error, error = line.partition("# E: ")
    _, is_type, revealed = line.partition("# T: ")
    if is_type:
        names = [re.sub(r"[\w.]+\.(\w+)", r"\1", text) for text in said]
        assert f'Revealed type is "{revealed}"' in [n.replace("def ", "") for n in names], (
            f"{where}: {line.strip()}: {names}"
        )
    elif is_error:
        assert any(error in text for text in said), f"{where}: {line.strip()}: {said}"
    else:
        assert not said, f"{where}: {line.strip()}: {said}"

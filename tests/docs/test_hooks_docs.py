"""The page on hooks says what the hooks are, and its adapter does what the page says."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import asynctasq
import pytest
from asynctasq import TaskStatus, Worker, events
from asynctasq.adapters import hookspecs, plugins
from asynctasq.cli import cli
from asynctasq.loading import load_modules
from asynctasq.tasks.task import registry
from click.testing import CliRunner

from .conftest import ROOT, Page, install

HOOKS = list(hookspecs.HOOKS)


def signature(hook: str) -> str:
    """As the page spells it."""
    function = getattr(hookspecs, hook)
    hints = dict(inspect.get_annotations(function))
    returns = hints.pop("return")
    return f"{hook}({', '.join(f'{name}: {hint}' for name, hint in hints.items())}) -> {returns}"


@pytest.fixture(scope="module")
def text(page: Callable[[str], Page]) -> str:
    return page("hooks.md").text


def section(text: str, hook: str) -> str:
    """What stands under the hook's heading."""
    return text.partition(f"\n## `{signature(hook)}`\n")[2].partition("\n## ")[0]


def test_the_page_has_a_heading_with_the_exact_signature_of_each_hook(text: str) -> None:
    assert re.findall(r"^## `(.*)`$", text, re.MULTILINE) == [signature(hook) for hook in HOOKS]


@pytest.mark.parametrize("hook", HOOKS)
def test_each_hook_is_described_and_has_an_example(text: str, hook: str) -> None:
    words, _, example = section(text, hook).partition("```python file=asynctasq_toy.py\n")
    assert len(words.split()) > 10
    assert re.search(rf"@hookimpl\n(@\w+\n)?(async )?def {hook}\(", example)


@pytest.mark.parametrize("hook", HOOKS)
def test_each_hook_has_a_test_of_its_name(hook: str) -> None:
    tests = (ROOT / "tests").rglob("test_*.py")
    assert any(re.search(rf"\bdef test_hook_{hook}\(", test.read_text()) for test in tests)


def test_every_hookspec_is_listed() -> None:
    marked = [n for n, f in vars(hookspecs).items() if hasattr(f, "asynctasq_spec")]
    assert sorted(marked) == sorted(HOOKS)


# --- the page's adapter at work ---------------------------------------------------------


@pytest.fixture(scope="module")
def folder(page: Callable[[str], Page], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files, installed."""
    path = tmp_path_factory.mktemp("toy")
    for file, code in page("hooks.md").files().items():
        (path / file).write_text(code)
    install(path, "asynctasq-toy", "0.1.0", {"toy": "asynctasq_toy"})
    return path


@pytest.fixture
def toy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The page's adapter, the only one loaded; its ORM is not imported yet."""
    monkeypatch.syspath_prepend(str(folder))
    import asynctasq_toy  # type: ignore[import-not-found]

    adapters = plugins.Adapters({"toy": asynctasq_toy})
    monkeypatch.setattr(plugins, "_installed", adapters)
    asynctasq.init(driver="memory")
    tasks = set(registry)
    yield asynctasq_toy
    for name in registry.keys() - tasks:  # no other test's worker can run them
        del registry[name]
    for name in ("toyorm", "asynctasq_toy"):
        sys.modules.pop(name, None)
    monkeypatch.undo()
    asynctasq.init(driver="memory")


@pytest.fixture
def toyorm(toy: ModuleType) -> ModuleType:
    """The page's ORM with a model `User`."""
    import toyorm  # type: ignore[import-not-found]

    module: ModuleType = toyorm
    module.User = type("User", (module.Model,), {"__module__": "toyorm"})  # type: ignore[attr-defined]
    return module


async def saved(toyorm: ModuleType, **values: Any) -> Any:
    user = toyorm.User(**values)
    await user.save()
    return user


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def eventually_got(url: str) -> str:
    """The page, once it is not empty."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            if content := answer.read().decode():
                return str(content)
        time.sleep(0.05)
    raise AssertionError(f"nothing at {url}")


async def run_one(function: Callable[..., Any], *args: Any, **options: Any) -> asynctasq.TaskHandle:  # type: ignore[type-arg]
    """Dispatch a call and work until it is done."""
    task = asynctasq.task(name=f"{function.__module__}.{function.__qualname__}", **options)
    handle = await task(function)(*args).dispatch()
    await Worker(burst=True).run()
    return handle


def adapter() -> plugins.Adapter:
    return plugins.installed().loaded["toy"]


def test_hook_is_model(toy: ModuleType) -> None:
    assert not toy.is_model(object())
    assert "toyorm" not in sys.modules
    import toyorm

    assert toy.is_model(object.__new__(toyorm.Model))
    assert not toy.is_model(toyorm.Model)


async def test_hook_to_ref(toyorm: ModuleType) -> None:
    user = toyorm.User(name="Ada")
    with pytest.raises(asynctasq.UnsavedModelError, match="save"):
        adapter().to_ref(user)
    await user.save()
    assert adapter().to_ref(user) == asynctasq.Ref("toyorm.User", user.id)
    await user.delete()
    with pytest.raises(asynctasq.DeletedModelError):
        adapter().to_ref(user)


async def test_hook_fetch_many(toyorm: ModuleType) -> None:
    seen = []

    async def read(users: list[Any]) -> None:
        seen.extend(users)

    users = [await saved(toyorm, name=name) for name in ("Ada", "Grace")]
    await run_one(read, users)
    assert [user.name for user in seen] == ["Ada", "Grace"]
    assert seen[0] is not users[0]


async def test_hook_plain_form(toyorm: ModuleType) -> None:
    seen: list[Any] = []

    async def read(text: str) -> None:
        seen.append(text)

    await run_one(read, toyorm.Markup("<b>"))
    assert [(type(text), text) for text in seen] == [(str, "<b>")]


def test_hook_option_names(toy: ModuleType) -> None:
    with pytest.raises(asynctasq.ConfigurationError, match="toy_modules"):
        asynctasq.init(driver="memory", toy_module=["x"])
    assert asynctasq.init(driver="memory", toy_modules=["x"])


def test_hook_configure(toy: ModuleType) -> None:
    asynctasq.init(driver="memory", toy_modules=["x"])
    assert toy.settings == {"toy_modules": ["x"]}
    asynctasq.init(driver="memory")
    assert toy.settings == {}


def test_hook_prepare(toy: ModuleType) -> None:
    asynctasq.init(driver="memory", toy_modules=["colorsys"])
    assert load_modules(["wave" if sys.version_info < (3, 13) else "csv"])[1:] == ["colorsys"]


async def test_hook_is_outage(toyorm: ModuleType) -> None:
    attempts = []

    async def query() -> None:
        attempts.append(asynctasq.current_message().attempt)
        toyorm.is_connected = len(attempts) > 2  # type: ignore[attr-defined]
        toyorm.execute("SELECT")

    handle = await run_one(query, max_attempts=1)
    assert attempts == [1, 1, 1]
    assert await handle.status() is TaskStatus.ENDED
    assert not adapter().is_outage(OSError())  # type: ignore[misc]


def test_hook_explain_import(toyorm: ModuleType, tmp_path: Path) -> None:
    module = tmp_path / "app_that_queries.py"
    module.write_text("import toyorm\ntoyorm.is_connected = False\ntoyorm.execute('SELECT')\n")
    with pytest.raises(asynctasq.ConfigurationError, match=r"set toyorm\.is_connected before"):
        load_modules([str(module)])
    sys.path.remove(str(tmp_path))


def test_hook_queue_names(toy: ModuleType) -> None:
    assert "toys" in Worker().queues
    assert Worker(queues=["mail"]).queues == ("mail",)


async def test_hook_worker_started(toy: ModuleType) -> None:
    seen = []

    async def look() -> None:
        seen.append(dict(toy.workers))

    await run_one(look)
    assert list(seen[0].values()) == [20]


async def test_hook_worker_stopped(toy: ModuleType) -> None:
    async def look() -> None:
        assert toy.workers

    await run_one(look)
    assert toy.workers == {}


async def test_hook_fetch_scope(toy: ModuleType, toyorm: ModuleType) -> None:
    async def read(user: Any) -> None: ...

    user = await saved(toyorm, name="Ada")
    task = asynctasq.task(name="read")(read)
    await asynctasq.dispatch_many([task(user), task(user)])
    await Worker(burst=True).run()
    assert toy.fetches == [("toyorm.User", 2)]


async def test_hook_task_scope(toy: ModuleType, toyorm: ModuleType) -> None:
    seen = []

    async def read(user: Any) -> None:
        seen.append((user, *toy.given.get()))

    await run_one(read, await saved(toyorm, name="Ada"))
    assert seen[0][0] is seen[0][1]
    assert toy.given.get() == ()


async def test_hook_thread_scope(toy: ModuleType, toyorm: ModuleType) -> None:
    seen = []

    def look(user: Any) -> None:
        ((_, instance),) = toy.threads
        seen.append(instance is user)

    await run_one(look, await saved(toyorm, name="Ada"))
    assert seen == [True]
    assert toy.threads == []


async def test_hook_run_ended(toy: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    async def give(value: object) -> object:
        if value == "x":
            raise LookupError(value)
        return object() if value is None else value

    for value in (1, None, "x"):
        await run_one(give, value, result_ttl=60, max_attempts=2, retry_delay=0)
    assert toy.ended[0] == (1, "succeeded", 1, "None")
    assert toy.ended[1][:3] == (1, "dead", None)
    assert "SerializationError" in toy.ended[1][3]
    assert toy.ended[2:] == [
        (1, "retried", None, "None"),
        (2, "dead", None, "LookupError('x')"),
    ]
    toy.ended = None  # type: ignore[attr-defined]
    handle = await run_one(give, 1, result_ttl=60)
    assert await handle.result() == 1
    assert "run_ended of an adapter failed" in caplog.text


async def test_hook_on_event(toy: ModuleType) -> None:
    async def do() -> None: ...

    await run_one(do)
    asynctasq.init(driver="memory")  # again, and nothing is heard twice
    await run_one(do)
    assert events.flush()
    calls = [kind for kind in toy.events if not kind.startswith("Worker")]
    assert calls == ["Dispatched", "RunStarted", "RunSucceeded"] * 2


def test_hook_metrics_page(folder: Path) -> None:
    port = free_port()
    program = folder / "app_with_metrics.py"
    program.write_text("import asynctasq\n\n@asynctasq.task\nasync def f(): ...\n")
    worker = subprocess.Popen(
        [sys.executable, "-m", "asynctasq", "worker", program.name, "--metrics-port", str(port)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "ASYNCTASQ_PLUGINS": "toy"},
    )
    with worker:
        try:
            url = f"http://127.0.0.1:{port}/metrics"
            answer = eventually_got(url)
        finally:
            worker.terminate()
    assert answer == 'toy_waiting{queue="default"} 0\ntoy_waiting{queue="toys"} 0\n'


async def test_hook_message_headers(toy: ModuleType) -> None:
    seen: list[Any] = []

    async def look() -> None:
        seen.append(dict(asynctasq.current_message().headers))

    task = asynctasq.task(name="looks-at-its-headers")(look)
    token = toy.caller.set("a view")
    await task().dispatch()
    await task().with_headers({"toy-caller": "me"}).dispatch()
    toy.caller.reset(token)
    await task().dispatch()
    await Worker(burst=True).run()
    assert seen == [{"toy-caller": "a view"}, {"toy-caller": "me"}, {}]


async def test_hook_is_pending_write(toyorm: ModuleType) -> None:
    old = await saved(toyorm, name="Ada")
    async with toyorm.Transaction():
        new = await saved(toyorm, name="Grace")
        async with toyorm.Transaction():
            assert toyorm.current.get().outer
            assert [adapter().is_pending_write(user) for user in (old, new)] == [False, True]  # type: ignore[misc]
    assert not adapter().is_pending_write(new)  # type: ignore[misc]


async def read_one(user: Any) -> None: ...


async def test_hook_after_commit(toyorm: ModuleType) -> None:
    read = asynctasq.task(read_one)
    async with toyorm.Transaction():
        kept = await read(await saved(toyorm, name="Ada")).dispatch()
        assert await kept.status() == TaskStatus.UNCOMMITTED
    assert await kept.status() == TaskStatus.WAITING
    with suppress(ZeroDivisionError):
        async with toyorm.Transaction():
            lost = await read(await saved(toyorm, name="Ada")).dispatch()
            raise ZeroDivisionError
    assert await lost.status() == TaskStatus.DROPPED


async def test_hook_owns_transaction(toyorm: ModuleType) -> None:
    call = asynctasq.task(read_one)(None)
    async with toyorm.Transaction() as transaction:
        handle = await call.on_commit(transaction).dispatch()
        assert await handle.status() == TaskStatus.UNCOMMITTED
    assert await handle.status() == TaskStatus.WAITING
    with pytest.raises(asynctasq.ConfigurationError, match="on_commit"):
        await call.on_commit("a stranger").dispatch()


async def test_hook_open_transaction(toyorm: ModuleType) -> None:
    call = asynctasq.task(read_one)(None)
    async with toyorm.Transaction():
        handle = await call.on_commit().dispatch()
        assert await handle.status() == TaskStatus.UNCOMMITTED
        assert await (await call.dispatch()).status() == TaskStatus.WAITING
    assert await (await call.on_commit().dispatch()).status() == TaskStatus.WAITING


@pytest.fixture
def sql_file(toyorm: ModuleType, tmp_path: Path) -> Path:
    """The SQLite file of the application."""
    toyorm.sql_file = tmp_path / "toy.db"  # type: ignore[attr-defined]
    return tmp_path / "toy.db"


def test_hook_databases(toyorm: ModuleType, sql_file: Path) -> None:
    assert "CREATE TABLE IF NOT EXISTS asynctasq_outbox" in commanded("tables", "print")
    toyorm.sql_file = None  # type: ignore[attr-defined]
    assert "no installed adapter knows a database here" in commanded("tables", "print")


async def test_hook_own_transaction(toyorm: ModuleType, sql_file: Path) -> None:
    [database] = adapter().databases()  # type: ignore[misc]
    begin = adapter().own_transaction
    assert begin is not None
    async with begin(database) as run:
        assert not await run(asynctasq.Statement("CREATE TABLE numbers (n int)"))
        await run(asynctasq.Statement("INSERT INTO numbers VALUES (?), (?)", (1, 2)))
    with suppress(ZeroDivisionError):
        async with begin(database) as run:
            await run(asynctasq.Statement("DELETE FROM numbers"))
            raise ZeroDivisionError
    async with begin(database) as run:
        rows = await run(asynctasq.Statement("SELECT n FROM numbers ORDER BY n"))
    assert [tuple(row) for row in rows] == [(1,), (2,)]


async def test_hook_atomic_transaction(toyorm: ModuleType, sql_file: Path) -> None:
    assert "created in toy" in await asyncio.to_thread(commanded, "tables", "create")
    runs = []

    async def add(name: str) -> None:
        runs.append(name)
        await saved(toyorm, name=name)
        if name == "lost":
            raise LookupError(name)

    for name in ("kept", "lost"):
        await run_one(add, name, atomic=toyorm.User, max_attempts=1)
    assert [row["name"] for row in toyorm.User.table.values()] == ["kept"]
    [database] = adapter().databases()  # type: ignore[misc]
    assert adapter().own_transaction is not None
    async with adapter().own_transaction(database) as run:  # type: ignore[misc]
        assert len(await run(asynctasq.Statement("SELECT id FROM asynctasq_done"))) == 1


def commanded(*arguments: str) -> str:
    """What a command of asynctasq prints."""
    return CliRunner().invoke(cli, arguments).output


def test_hook_check(toyorm: ModuleType) -> None:
    assert "ok       toyorm: connected" in CliRunner().invoke(cli, ["doctor"]).output
    toyorm.is_connected = False  # type: ignore[attr-defined]
    done = CliRunner().invoke(cli, ["doctor"])
    assert (done.exit_code, "set toyorm.is_connected" in done.output) == (1, True)


async def test_hook_lazy_names(toy: ModuleType, toyorm: ModuleType) -> None:
    assert asynctasq.fetched_rows is toy.fetched_rows
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = asynctasq.no_such_name


def test_hook_adapter_suite(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "asynctasq", "test-adapter", "toy", "-q", "-W", "error"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "ASYNCTASQ_PLUGINS": "toy"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) > 70
    assert "capability composite_keys" in done.stdout

"""Adapters are found through entry points, and one that is broken hides no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import asynctasq
import asynctasq.app
import pytest
from asynctasq import PluginError, Ref, class_path, hookimpl
from asynctasq.adapters import plugins
from asynctasq.adapters.plugins import Adapters, PluginReport
from asynctasq.brokers.opening import installed_drivers
from asynctasq.cli import cli
from click.testing import CliRunner
from toy_orm import Toy, User

GOOD = """
from asynctasq import Ref, hookimpl

class Model:
    pass

@hookimpl
def is_model(obj):
    return isinstance(obj, Model)

@hookimpl
def to_ref(obj):
    return Ref("x", 1)

@hookimpl
async def fetch_many(refs):
    return [None for ref in refs]
"""

Distribute = Callable[..., None]


@pytest.fixture
def distribute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Distribute:
    """Installs a distribution with one module and an entry point for it."""
    monkeypatch.delenv("ASYNCTASQ_PLUGINS", raising=False)
    monkeypatch.setattr(plugins, "_installed", None)
    monkeypatch.setattr(asynctasq.app, "_current", None)

    def install(
        name: str,
        source: str,
        entry_point: str = "",
        version: str = "1.2",
        group: str = "asynctasq",
    ) -> None:
        folder = tmp_path / name
        info = folder / f"asynctasq_{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (folder / f"plugin_{name}.py").write_text(source)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: asynctasq-{name}\nVersion: {version}\n"
        )
        target = entry_point or f"{name} = plugin_{name}"
        (info / "entry_points.txt").write_text(f"[{group}]\n{target}\n")
        monkeypatch.syspath_prepend(str(folder))

    return install


def report(adapters: Adapters, name: str) -> PluginReport:
    (found,) = [r for r in adapters.reports if r.name == name]
    return found


def test_a_module_is_found_through_its_entry_point(distribute: Distribute) -> None:
    distribute("good", GOOD)
    adapters = Adapters()
    assert report(adapters, "good") == PluginReport("good", "asynctasq-good", "1.2", "loaded")
    import plugin_good  # type: ignore[import-not-found]

    assert adapters.owner_of(plugin_good.Model()) is adapters.loaded["good"]


BROKEN = {
    "import": ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    "syntax": ("def", "SyntaxError: invalid syntax"),
    "exit": ("raise SystemExit('bye')", "SystemExit: bye"),
    "misspelt": (
        GOOD + "@hookimpl\ndef task_scop(message):\n    pass\n",
        "PluginValidationError: unknown hook 'task_scop'",
    ),
    "argument": (
        GOOD + "@hookimpl\ndef thread_scope(messages):\n    pass\n",
        "PluginValidationError: Plugin 'argument' for hook 'thread_scope'",
    ),
    "wrapper": (
        GOOD + "@hookimpl(wrapper=True)\ndef check():\n    return (yield)\n",
        "PluginError: check is a wrapper",
    ),
    "incomplete": (
        "from asynctasq import hookimpl\n@hookimpl\ndef is_model(obj):\n    pass\n",
        "PluginError: it has is_model, so it needs to_ref and fetch_many too",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_reported_and_hides_no_other(distribute: Distribute, name: str) -> None:
    source, reason = BROKEN[name]
    distribute(name, source)
    distribute("a_good", GOOD)  # one on each side of it in the alphabet
    distribute("z_good", GOOD)
    adapters = Adapters()
    assert {"a_good", "z_good"} <= adapters.loaded.keys()
    assert name not in adapters.loaded
    broken = report(adapters, name)
    assert (broken.state, broken.version) == ("failed", "1.2")
    assert broken.reason.startswith(reason)


def test_a_missing_attribute_is_reported(distribute: Distribute) -> None:
    distribute("lost", GOOD, entry_point="lost = plugin_lost:Adapter")
    assert report(Adapters(), "lost").reason.startswith("AttributeError: ")


def test_a_broken_plugin_is_named_when_a_value_cannot_be_sent(distribute: Distribute) -> None:
    distribute("broken", "import no_such_module")
    asynctasq.init(driver="memory")

    @asynctasq.task
    async def read(thing: object) -> None: ...

    with pytest.raises(asynctasq.SerializationError) as caught:
        read(SimpleNamespace()).dispatch_sync()
    assert str(caught.value).startswith("thing: types.SimpleNamespace cannot be put on the queue")
    assert "adapter 'broken' failed to load: ModuleNotFoundError" in str(caught.value)


def test_a_reference_to_a_broken_plugin_says_why_it_failed(distribute: Distribute) -> None:
    distribute("broken", "import no_such_module")
    with pytest.raises(asynctasq.InvalidReference, match="no adapter 'broken': ModuleNotFound"):
        Adapters().owner_of_reference(Ref("app.User", 1, orm="broken"))


def test_two_distributions_with_one_name_are_both_named(distribute: Distribute) -> None:
    distribute("one", GOOD, entry_point="myorm = plugin_one")
    distribute("other", GOOD, entry_point="myorm = plugin_other")
    adapters = Adapters()
    both = [r for r in adapters.reports if r.name == "myorm"]
    assert [r.state for r in both] == ["failed", "failed"]
    for r in both:
        assert "asynctasq-one and asynctasq-other both provide it" in r.reason
    assert "myorm" not in adapters.loaded


def test_only_the_chosen_plugins_are_loaded(
    distribute: Distribute, monkeypatch: pytest.MonkeyPatch
) -> None:
    distribute("one", GOOD)
    distribute("other", "raise AssertionError('it was imported')")
    monkeypatch.setenv("ASYNCTASQ_PLUGINS", " one, absent ,")
    adapters = Adapters()
    assert list(adapters.loaded) == ["one"]
    assert report(adapters, "other").state == "blocked"
    assert report(adapters, "other").reason == "not in ASYNCTASQ_PLUGINS"
    assert report(adapters, "absent").reason == "in ASYNCTASQ_PLUGINS, not installed"


def test_an_empty_choice_loads_none(
    distribute: Distribute, monkeypatch: pytest.MonkeyPatch
) -> None:
    distribute("one", GOOD)
    monkeypatch.setenv("ASYNCTASQ_PLUGINS", "")
    adapters = Adapters()
    assert adapters.loaded == {}
    assert {r.state for r in adapters.reports} == {"blocked"}


# --- plugins of each form ---------------------------------------------------------------


class Thing:
    """The model of the plugins below."""


class Plugin:
    """A plugin as an instance, or as a class."""

    asked = 0

    @hookimpl
    def is_model(self, obj: object) -> bool:
        self.asked += 1
        return isinstance(obj, Thing)

    @hookimpl
    def to_ref(self, obj: object) -> Ref:
        return Ref("test_plugins.Thing", self.asked)

    @hookimpl
    async def fetch_many(self, refs: Any) -> list[Thing | None]:
        return [None for _ in refs]


def test_a_plugin_may_be_an_instance_a_class_or_a_module() -> None:
    module = ModuleType("plugin")
    exec(GOOD, vars(module))
    for plugin in (Plugin(), Plugin, module):
        adapters = Adapters({"some": plugin})
        adapter = adapters.owner_of(vars(module)["Model"]() if plugin is module else Thing())
        assert adapter is adapters.loaded["some"]
        assert isinstance(adapter.to_ref(Thing()), Ref)


def test_the_owner_of_a_type_is_asked_for_once() -> None:
    plugin = Plugin()
    adapters = Adapters({"some": plugin})
    for _ in range(3):
        assert adapters.owner_of(Thing()) is adapters.loaded["some"]
        assert adapters.owner_of("text") is None
    assert plugin.asked == 2


def test_a_type_that_two_adapters_claim_names_both() -> None:
    adapters = Adapters({"one": Plugin(), "other": Plugin()})
    with pytest.raises(PluginError, match="adapters one and other both claim Thing"):
        adapters.owner_of(Thing())


def test_implementations_may_take_fewer_arguments_and_in_any_order() -> None:
    class Partial:
        @hookimpl
        def task_scope(self, instances: object, message: object) -> Any:
            return (message, instances)

        @hookimpl
        def after_commit(self, send: object) -> None:
            self.send = send

    partial = Partial()
    adapter = Adapters({"some": partial}).loaded["some"]
    assert adapter.task_scope is not None
    assert adapter.after_commit is not None
    assert adapter.task_scope("message", ["instance"]) == ("message", ["instance"])  # type: ignore[comparison-overlap]
    adapter.after_commit("obj", "send")
    assert partial.send == "send"


def test_an_option_that_two_adapters_claim_names_both() -> None:
    class Claims:
        @hookimpl
        def option_names(self) -> list[str]:
            return ["url"]

    with pytest.raises(PluginError, match="one and other both claim 'url'"):
        Adapters({"one": Claims(), "other": Claims()}).option_names()


def test_each_adapter_is_configured_with_its_own_options() -> None:
    got: dict[str, Any] = {}

    class Takes:
        def __init__(self, *names: str) -> None:
            self.names = names

        @hookimpl
        def option_names(self) -> tuple[str, ...]:
            return self.names

        @hookimpl
        def configure(self, options: dict[str, Any]) -> None:
            got[self.names[0]] = options

    Adapters({"a": Takes("a", "b"), "c": Takes("c")}).configure({"b": 1, "c": 2})
    assert got == {"a": {"b": 1}, "c": {"c": 2}}


def test_a_lazy_name_is_imported_when_it_is_used(distribute: Distribute) -> None:
    distribute(
        "named",
        "from asynctasq import hookimpl\n@hookimpl\ndef lazy_names():\n"
        "    return {'parse_lazily': 'json:loads'}\n",
    )
    assert asynctasq.parse_lazily is json.loads
    with pytest.raises(AttributeError, match="no attribute 'parse_hastily'"):
        _ = asynctasq.parse_hastily


def test_a_lazy_name_whose_adapter_is_missing_says_which_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plugins, "_installed", Adapters({}))
    with pytest.raises(AttributeError, match="create_worker_session_factory comes from asynctasq-"):
        _ = asynctasq.create_worker_session_factory
    with pytest.raises(asynctasq.ConfigurationError, match="belongs to asynctasq-tortoise"):
        asynctasq.init(tortoise_config={})


async def test_a_scope_gets_its_rows_also_beside_lazy_ones_of_another_adapter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[object] = []

    class Scoped(Plugin):
        @hookimpl
        def to_ref(self, obj: object) -> Ref:
            return Ref(class_path(Thing), 1)

        @hookimpl
        async def fetch_many(self, refs: Any) -> list[Thing | None]:
            return [Thing() for _ in refs]

        @hookimpl
        def task_scope(self, instances: Any) -> None:
            given.extend(instances)

    toy = Toy()
    toy.is_ready = False
    row = toy.save(User(1, "Ada"))
    monkeypatch.setattr(plugins, "_installed", Adapters({"toy": toy, "scoped": Scoped()}))
    monkeypatch.setattr(asynctasq.app, "_current", None)
    asynctasq.init(driver="memory")
    names = []

    async def read(row: Any, thing: Any) -> None:
        toy.is_ready = True
        names.append(row.name)

    await asynctasq.task(read)(row, Thing()).dispatch()
    await asynctasq.Worker(burst=True).run()
    assert names == ["Ada"]
    assert [type(i) for i in given] == [Thing]


# --- without an adapter -----------------------------------------------------------------

ORMS = {
    "asynctasq-django": """
from django.conf import settings
settings.configure()
import django
django.setup()
from django.db import models
class Order(models.Model):
    class Meta:
        app_label = "shop"
order = Order(id=5)
""",
    "asynctasq-sqlalchemy": """
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
class Base(DeclarativeBase):
    pass
class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
order = Order(id=5)
""",
    "asynctasq-tortoise": """
from tortoise import fields, models
class Order(models.Model):
    id = fields.IntField(primary_key=True)
order = Order(id=5)
""",
}


@pytest.mark.parametrize("distribution", ORMS)
def test_an_object_of_a_known_orm_says_what_to_install(distribution: str) -> None:
    program = ORMS[distribution] + (
        "from asynctasq import SerializationError, init, task\n"
        "init(driver='memory')\n"
        "@task\ndef ship(order): ...\n"
        "try:\n    ship({'of': order}).dispatch_sync()\n"
        "except SerializationError as e:\n    print(e)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "ASYNCTASQ_PLUGINS": ""},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == (
        f"order['of']: __main__.Order cannot be put on the queue; it is a model of "
        f"{NAMES[distribution]}: install {distribution}, or see `asynctasq plugins` for why it "
        f"did not load\n"
    )


NAMES = {
    "asynctasq-django": "Django",
    "asynctasq-sqlalchemy": "SQLAlchemy",
    "asynctasq-tortoise": "Tortoise",
}


# --- what the commands show -------------------------------------------------------------


def test_the_command_shows_every_adapter_its_version_and_what_is_wrong(
    distribute: Distribute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    distribute("good", GOOD, version="3.4")
    distribute("broken", "import no_such_module")
    done = CliRunner().invoke(cli, ["plugins"])
    assert done.exit_code == 1
    good = next(line for line in done.output.splitlines() if "asynctasq-good" in line)
    assert [word in good for word in ("good", "3.4", "loaded")] == [True] * 3
    broken = next(line for line in done.output.splitlines() if "asynctasq-broken" in line)
    assert "failed" in broken
    assert "No module named 'no_such_module'" in broken


def test_the_command_shows_brokers_and_fails_for_a_broken_one(
    distribute: Distribute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    installed_drivers.cache_clear()
    distribute("queue", "import no_such_module", group="asynctasq.brokers")
    try:
        done = CliRunner().invoke(cli, ["plugins", "--json"])
    finally:
        installed_drivers.cache_clear()
    assert done.exit_code == 1
    brokers = {p["name"]: p for p in json.loads(done.stdout) if p["kind"] == "broker"}
    assert {brokers[name]["state"] for name in ("memory", "redis", "sqlite")} == {"loaded"}
    assert brokers["sqlite"]["distribution"] == "asynctasq-core"
    broken = brokers["queue"]
    assert (broken["distribution"], broken["version"]) == ("asynctasq-queue", "1.2")
    assert broken["state"] == "failed"
    assert "No module named 'no_such_module'" in broken["reason"]


def test_the_command_gives_json(distribute: Distribute) -> None:
    distribute("good", GOOD)
    done = CliRunner().invoke(cli, ["plugins", "--json"])
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert {
        "kind": "adapter",
        "name": "good",
        "distribution": "asynctasq-good",
        "version": "1.2",
        "state": "loaded",
        "reason": "",
    } in found


def test_the_doctor_fails_for_a_broken_adapter_and_shows_what_others_found(
    distribute: Distribute,
) -> None:
    distribute("broken", "import no_such_module")
    finding = "Finding('warning', 'my orm', 'old', 'upgrade')"
    distribute(
        "checks",
        "from asynctasq import Finding, hookimpl\n"
        f"@hookimpl\ndef check():\n    return [{finding}]\n",
    )
    distribute(
        "fails", "from asynctasq import hookimpl\n@hookimpl\nasync def check():\n    1 / 0\n"
    )
    asynctasq.init(driver="memory")
    done = CliRunner().invoke(cli, ["doctor", "--json"])
    found = {(f["level"], f["subject"]): f["text"] for f in json.loads(done.stdout)}
    assert done.exit_code == 1
    assert "no_such_module" in found["error", "adapter broken"]
    assert found["warning", "my orm"] == "old"
    assert any(level == "error" and "ZeroDivisionError" in t for (level, _), t in found.items())


def test_the_suite_of_an_adapter_that_is_missing_broken_or_has_none(
    distribute: Distribute,
) -> None:
    distribute("broken", "import no_such_module")
    distribute("good", GOOD)
    for name, problem in {
        "broken": "No module named 'no_such_module'",
        "good": "brings no suite",
        "absent": "no adapter 'absent' is installed",
    }.items():
        done = CliRunner().invoke(cli, ["test-adapter", name])
        assert (done.exit_code, problem in done.output) == (1, True), done.output


def test_the_suite_without_pytest_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pytest_asyncio", None)
    for name in [name for name in sys.modules if name.startswith("asynctasq.testing")]:
        monkeypatch.delitem(sys.modules, name)
    done = CliRunner().invoke(cli, ["test-adapter", "sqlalchemy"])
    assert done.exit_code == 1
    assert "pytest_asyncio is not installed: pip install 'asynctasq-core[testing]'" in done.output


def commands(distribute: Distribute, name: str, source: str) -> None:
    """Install a distribution with a command."""
    target = f"{name} = plugin_{name}:command"
    distribute(name, source, target, group="asynctasq.commands")


def test_a_plugin_may_bring_a_command(distribute: Distribute) -> None:
    source = """
import click

@click.command()
def command():
    '''Say hello.'''
    click.echo("hello")
"""
    commands(distribute, "hello", source)
    assert "Say hello." in CliRunner().invoke(cli, ["--help"]).output
    assert CliRunner().invoke(cli, ["hello"]).output == "hello\n"


@pytest.mark.parametrize("source", ["raise SystemExit(3)", "command = 5", "import not_there"])
def test_a_broken_command_hides_no_other(distribute: Distribute, source: str) -> None:
    commands(distribute, "broken", source)
    done = CliRunner().invoke(cli, ["--help"])
    assert done.exit_code == 0
    assert "failed to load" in done.output
    assert "worker" in done.output
    done = CliRunner().invoke(cli, ["broken"])
    assert done.exit_code == 1
    assert "command 'broken' failed to load" in done.output


def test_no_plugin_takes_the_place_of_a_command_of_ours(distribute: Distribute) -> None:
    commands(distribute, "status", "raise SystemExit(3)")
    assert CliRunner().invoke(cli, ["status", "--help"]).exit_code == 0

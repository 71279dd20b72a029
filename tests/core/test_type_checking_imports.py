"""Annotations whose names the task's module imports for type checkers only."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from asynctasq import ConfigurationError, SerializationError, Worker
from asynctasq.tasks.declaration import registry
from asynctasq.wire import class_paths
from asynctasq.wire.class_paths import allow_packages
from toy_orm import Load, Toy

Work = Callable[..., Awaitable[None]]

MODELS = """
from dataclasses import dataclass
from typing import Annotated
from toy_orm import Load, Row

class Order(Row): ...
class Customer(Row): ...

@dataclass
class Note:
    text: str

Loaded = Annotated[Order, Load("lines")]
"""

IMPORTS = {
    "absolute": ("from {package}.models import Order", "Order"),
    "relative": ("from .models import Order", "Order"),
    "of the module": ("from . import models", "models.Order"),
    "under another name": ("from .models import Order as Bill", "Bill"),
    "of a dotted module": ("import {package}.models as m", "m.Order"),
}


class Package:
    """A package of an application, written for one test."""

    def __init__(self, folder: Path) -> None:
        self.name = f"shop_{uuid4().hex[:8]}"
        self._folder = folder / self.name
        self._folder.mkdir()
        (self._folder / "__init__.py").touch()
        self.write("models", MODELS)

    def write(self, name: str, source: str) -> None:
        text = textwrap.dedent(source).replace("{package}", self.name)
        (self._folder / f"{name}.py").write_text(text)
        importlib.invalidate_caches()

    def load(self, name: str) -> Any:
        return importlib.import_module(f"{self.name}.{name}")

    def tasks(self, imports: str, tasks: str) -> Any:
        """A module of tasks; `imports` are for type checkers only."""
        head = """
            from __future__ import annotations
            from typing import TYPE_CHECKING, Annotated
            from asynctasq import AsyncTask, OnMissing, task
            from toy_orm import Load
            got = []
            if TYPE_CHECKING:
        """
        body = textwrap.indent(textwrap.dedent(imports), "    ")
        self.write("tasks", textwrap.dedent(head) + body + "\n" + textwrap.dedent(tasks))
        return self.load("tasks")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy: Toy) -> Iterator[Package]:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(class_paths, "_packages", set())
    modules, names = set(sys.modules), set(registry)
    yield Package(tmp_path)
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    for name in set(registry) - names:
        del registry[name]


@pytest.mark.parametrize("how", IMPORTS)
async def test_what_the_annotation_says_of_rows_holds(
    package: Package, toy: Toy, work: Work, how: str
) -> None:
    statement, name = IMPORTS[how]
    tasks = package.tasks(
        statement,
        f"""
        @task
        async def send(order: Annotated[{name}, Load("lines")], gone: Annotated[
            {name} | None, OnMissing("none")
        ]) -> None:
            got.append((order.pk, gone))
        """,
    )
    order = package.load("models").Order
    await tasks.send(toy.save(order(1)), order(2)).dispatch()
    await work()
    assert tasks.got == [(1, None)]
    assert {ref.pk: ref.options for refs in toy.asked for ref in refs} == {
        1: (Load("lines"),),
        2: (),
    }


async def test_an_alias_with_metadata_is_found_too(package: Package, toy: Toy, work: Work) -> None:
    tasks = package.tasks(
        "from .models import Loaded",
        """
        class Send(AsyncTask[None]):
            def __init__(self, orders: list[Loaded]) -> None: ...
            async def execute(self) -> None: ...
        """,
    )
    order = package.load("models").Order
    await tasks.Send([toy.save(order(1))]).dispatch()
    await work()
    assert [[ref.options for ref in refs] for refs in toy.asked] == [[(Load("lines"),)]]


async def test_a_worker_imports_what_is_named_from_the_applications_packages(
    package: Package, toy: Toy
) -> None:
    tasks = package.tasks("from .models import Loaded", "@task\ndef send(order: Loaded): ...")
    with pytest.raises(
        ConfigurationError, match=r"'order' cannot be resolved: 'Loaded' is not known"
    ):
        await Worker(burst=True).run()
    allow_packages([package.name])
    await Worker(burst=True).run()
    assert tasks.send.annotations.declared["order"].options == (Load("lines"),)


async def test_a_dataclass_travels_once_its_module_is_loaded(
    package: Package, toy: Toy, work: Work
) -> None:
    tasks = package.tasks(
        "from .models import Note",
        """
        @task
        def send(note: Note | None) -> None:
            got.append(note)
        """,
    )
    await tasks.send(None).dispatch()  # the annotations are read before
    note = package.load("models").Note("hello")
    await tasks.send(note).dispatch()
    await work()
    assert tasks.got == [None, note]


async def test_a_name_of_unknown_origin_is_found_among_the_applications_models(
    package: Package, toy: Toy
) -> None:
    tasks = package.tasks(
        "pass", '@task\ndef send(order: Annotated["Order", Load("lines")], other: Customer): ...'
    )
    models = package.load("models")
    package.write("forms", "class Customer: ...")
    package.load("forms")
    await Worker(burst=True).run()
    assert tasks.send.annotations.models == {"order": (models.Order,), "other": (models.Customer,)}


@pytest.mark.parametrize(
    ("imports", "parameter", "problem"),
    [
        ("pass", "order: Ordr", "'Ordr' is not known at runtime: nothing of this name is loaded"),
        ("pass", "*order: 'list[Ordr]'", "'Ordr' is not known"),
        ("pass", "order: Annotated[Ordr, Load('x')]", "'Ordr' is not known"),
        ("from .models import Ordr", "order: Ordr", "no attribute 'Ordr'"),
        ("from .nowhere import Order", "order: Order", "No module named '.*nowhere'"),
        ("from nowhere import Order", "order: Annotated[Order, Load('x')]", "nowhere, from where"),
        ("from nowhere import Order", "order: list[Annotated[Order, Load('x')]]", "nowhere, from"),
        ("pass", "order: 1 / 0", "ZeroDivisionError"),
    ],
)
async def test_a_worker_does_not_start_with_an_annotation_that_cannot_be_told(
    package: Package, imports: str, parameter: str, problem: str
) -> None:
    tasks = package.tasks(imports, f"@task\ndef send({parameter}): ...")
    allow_packages([package.name])
    package.load("models")
    expected = rf"task {tasks.send.name}: the annotation of 'order' cannot be resolved: .*{problem}"
    with pytest.raises(ConfigurationError, match=expected):
        await Worker(burst=True).run()


@pytest.mark.parametrize("name", ["Client", "Client | None", "list[Client]", "clients.Client[int]"])
async def test_another_packages_class_without_metadata_does_no_harm(
    package: Package, toy: Toy, work: Work, name: str
) -> None:
    tasks = package.tasks(
        "from nowhere import Client, clients",
        f"""
        @task
        def send(order: Annotated[Order, Load("x")], client: {name} = None) -> Client:
            got.append(order.pk)
        """,
    )
    order = package.load("models").Order
    await tasks.send(toy.save(order(1))).dispatch()
    await work()
    assert tasks.got == [1]


async def test_models_that_cannot_be_told_apart_are_an_error(package: Package) -> None:
    tasks = package.tasks("pass", "@task\ndef send(order: Order): ...")
    package.load("models")
    package.write("archive", MODELS)
    package.load("archive")
    with pytest.raises(ConfigurationError, match="several classes have this name"):
        await Worker(burst=True).run()
    assert tasks.send.annotations.models == {}


async def test_a_wrong_class_is_still_refused_where_the_right_one_is_not_known(
    package: Package,
) -> None:
    tasks = package.tasks("from .models import Note", "@task\ndef send(note: Note): ...")
    with pytest.raises(SerializationError, match=r"^note: "):
        await tasks.send(object()).dispatch()

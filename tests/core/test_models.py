"""Class paths: found among aliases and loaded modules, imported only from the application."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from asynctasq import InvalidReference, alias_model, class_path
from asynctasq.app import App
from asynctasq.wire import class_paths as models
from asynctasq.wire.class_paths import allow_packages, find_class, main_module_name, module_name


class Outer:
    class Inner:
        """A nested class."""

    attribute = 7


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_aliases", {})
    monkeypatch.setattr(models, "_found", {})
    monkeypatch.setattr(models, "_packages", set())


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package of the application that nobody has imported yet."""
    folder = tmp_path / "findable_app"
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "inner/__init__.py").write_text("")
    (folder / "inner/models.py").write_text("class User:\n    class Meta: ...\nnumber = 1\n")
    (folder / "broken.py").write_text("import not_installed_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "findable_app"
    for name in [name for name in sys.modules if name.startswith("findable_app")]:
        del sys.modules[name]


def test_a_class_that_was_dispatched_is_found_by_its_path() -> None:
    class Local:
        pass

    for cls in (Outer, Outer.Inner, Local):
        assert find_class(class_path(cls)) is cls


def test_a_loaded_class_is_found_without_being_dispatched() -> None:
    assert find_class(f"{__name__}.Outer") is Outer
    assert find_class(f"{__name__}.Outer.Inner") is Outer.Inner


def test_an_alias_leads_an_old_path_to_the_class() -> None:
    alias_model("old.models.User", Outer)
    assert find_class("old.models.User") is Outer
    with pytest.raises(TypeError, match=r"alias_model\('old', \.\.\.\) expects a class"):
        alias_model("old", "User")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "path",
    [
        f"{__name__}.Outer.attribute",
        f"{__name__}.Outer.__init__",
        f"{__name__}.Outer.__class__",
        f"{__name__}.Nobody",
        __name__,
        "os.path",
        "os.system",
        "sys.modules",
        "",
        ".",
        "a..b",
        "1.2",
        "not-a-name.User",
        ".".join(["a"] * 21),
    ],
)
def test_what_is_no_loaded_class_is_refused(path: str) -> None:
    with pytest.raises(InvalidReference):
        find_class(path)


def test_looking_for_a_class_runs_no_code_of_what_lies_on_the_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    touched: list[str] = []

    class Trap(type):
        def __getattribute__(cls, name: str) -> object:
            if name not in ("__dict__", "__class__"):
                touched.append(name)
            return super().__getattribute__(name)

    class Bait(metaclass=Trap):
        pass

    module = ModuleType("bait_module")
    module.__dict__["Bait"] = Bait
    module.__dict__["__getattr__"] = touched.append
    monkeypatch.setitem(sys.modules, "bait_module", module)
    touched.clear()
    for path in ("bait_module.Bait.inner", "bait_module.missing"):
        with pytest.raises(InvalidReference):
            find_class(path)
    assert touched == []


def test_a_module_of_the_application_is_imported(package: str) -> None:
    path = f"{package}.inner.models.User"
    with pytest.raises(InvalidReference, match="lies outside the application's packages"):
        find_class(path)
    assert package not in sys.modules
    allow_packages([f"{package}.tasks"])
    assert find_class(path).__name__ == "User"
    assert find_class(f"{path}.Meta").__name__ == "Meta"


def test_model_modules_are_part_of_the_application(
    package: str, configure: Callable[..., App]
) -> None:
    configure(model_modules=[package])
    assert find_class(f"{package}.inner.models.User").__name__ == "User"


def test_a_missing_class_of_the_application_names_the_alias(package: str) -> None:
    allow_packages([package])
    for path in (f"{package}.inner.models.Gone", f"{package}.gone.models.User"):
        with pytest.raises(InvalidReference, match="alias_model"):
            find_class(path)
    with pytest.raises(InvalidReference):
        find_class(f"{package}.inner.models.number")


def test_an_error_inside_a_module_of_the_application_is_told_as_it_is(package: str) -> None:
    allow_packages([package])
    with pytest.raises(ModuleNotFoundError, match="not_installed_at_all"):
        find_class(f"{package}.broken.User")


def test_classes_of_the_running_script_bear_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    main = ModuleType("__main__")
    main.__file__ = str(tmp_path / "script.py")
    main.__dict__["Outer"] = Outer
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert main_module_name() == "script"
    assert module_name("__main__") == "script"
    assert module_name("other") == "other"
    assert find_class("script.Outer") is Outer
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/__init__.py").touch()
    main.__file__ = str(tmp_path / "shop/script.py")
    assert find_class("shop.script.Outer") is Outer
    del main.__file__
    assert main_module_name() == "__main__"

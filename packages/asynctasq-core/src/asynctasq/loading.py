"""Imports the application's modules, the only ones whose tasks a worker runs."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from .adapters.plugins import installed
from .app import current
from .errors import AsynctasqError, BrokenModule, ConfigurationError
from .wire.class_paths import allow_packages, module_of_file


def load_modules(names: Iterable[str]) -> list[str]:
    """Import modules, or scripts by path, and allow importing models from their packages.

    Adapters prepare their ORMs first, and may add modules.

    Returns:
        The names of all modules imported.

    Raises:
        ConfigurationError: A module or script does not exist.
        BrokenModule: The import of one failed.
    """
    prepared = [a.prepare() for a in installed().loaded.values() if a.prepare is not None]
    wanted = [*names, *(name for more in prepared for name in more or ())]
    modules = list(dict.fromkeys(_import(name) for name in wanted))
    allow_packages(modules)
    return modules


def load_application(modules: Iterable[str]) -> list[str]:
    """Import modules, and those that the configuration lists in `imports`.

    Returns:
        The names of all modules imported.

    Raises:
        ConfigurationError: As in `load_modules`, or the configuration is wrong.
    """
    names = load_modules([*modules, *current().config.imports])
    # Read the configuration again: imported modules may have called `init`.
    names += load_modules(name for name in current().config.imports if name not in names)
    _enable_loggers()
    return names


def _enable_loggers() -> None:
    """Enable our loggers again, since `dictConfig` by default disables existing ones."""
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("asynctasq") and isinstance(logger, logging.Logger):
            logger.disabled = False


def _import(name: str) -> str:
    try:
        if name.endswith(".py"):
            return _import_script(Path(name)).__name__
        if "" in name.split("."):  # relative, or nothing at all
            raise _missing(name)
        importlib.import_module(name)
    except AsynctasqError:
        raise
    except Exception as e:
        for adapter in installed().with_hook("explain_import"):
            if explanation := adapter.explain_import(e):  # type: ignore[misc]
                raise ConfigurationError(f"cannot import {name!r}: {explanation}") from e
        if isinstance(e, ModuleNotFoundError) and _is_missing(name, e):
            raise _missing(name) from e
        raise BrokenModule(f"cannot import {name!r}: {type(e).__name__}: {e}") from e
    return name


def _missing(name: str) -> ConfigurationError:
    return ConfigurationError(f"there is no module {name!r}, looked for from {Path.cwd()}")


def _is_missing(name: str, error: ModuleNotFoundError) -> bool:
    return bool(error.name) and (name == error.name or name.startswith(f"{error.name}."))


def _import_script(path: Path) -> ModuleType:
    """Import a file under the name that its tasks had when it ran as a script and dispatched."""
    path = path.resolve()
    if not path.is_file():
        raise ConfigurationError(f"there is no script {path}")
    name, folder = module_of_file(path)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    module = importlib.import_module(name)
    if Path(module.__file__ or "").resolve() != path:
        raise ConfigurationError(
            f"{path} cannot be imported as {name!r}: {module.__file__ or 'a built-in module'} "
            f"has that name already; rename the script"
        )
    return module

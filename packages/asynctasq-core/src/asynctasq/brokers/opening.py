"""Finds brokers among entry points by their driver's name, and opens them with their options.

Core's own brokers are found the same way as third parties'. Owns the rule that a broker which
cannot be loaded hides no other: it is only reported when asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ..config import Config, Section
from ..errors import PluginError
from .contract import Broker

#: Entry point group. An entry point's name is the driver's name; it points to an object with
#: `Config`, `main_option` and `open`, such as a module.
GROUP = "asynctasq.brokers"


@dataclass(frozen=True, slots=True)
class Driver:
    """One installed broker.

    Attributes:
        section: Its part of the configuration.
        open: Makes a broker, not yet connected, from its options.
        distribution: Name and version of the distribution that provides it.
    """

    section: Section
    open: Callable[[Any], Broker]
    distribution: str


@dataclass(frozen=True, slots=True)
class Drivers:
    """The installed brokers by name, and why others could not be loaded."""

    loaded: Mapping[str, Driver] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)

    @property
    def sections(self) -> list[Section]:
        """The brokers' parts of the configuration."""
        return [driver.section for driver in self.loaded.values()]

    def named(self, name: str) -> Driver:
        """The broker of this name.

        Raises:
            PluginError: It is not installed, or could not be loaded.
        """
        driver = self.loaded.get(name)
        if driver is None:
            known = ", ".join(sorted(self.loaded))
            reason = self.failed.get(name, f"not installed; installed are {known}")
            raise PluginError(f"broker {name!r}: {reason}")
        return driver


@cache
def installed_drivers() -> Drivers:
    """The brokers installed here; of each driver, only its options are imported."""
    loaded: dict[str, Driver] = {}
    failed: dict[str, str] = {}
    for entry_point in sorted(entry_points(group=GROUP), key=_distribution):
        name = entry_point.name
        if name in loaded:
            failed[name] = f"{loaded.pop(name).distribution} and {_distribution(entry_point)} both"
            failed[name] += " provide it; uninstall one of them"
        if name in failed:
            continue
        try:
            loaded[name] = _driver(entry_point)
        # A plugin's code may raise anything or even exit; it must not hide other plugins.
        except (Exception, SystemExit) as e:  # noqa: BLE001
            failed[name] = f"failed to load: {type(e).__name__}: {e}"
    return Drivers(loaded, failed)


def _driver(entry_point: EntryPoint) -> Driver:
    plugin = entry_point.load()
    section = Section(entry_point.name, plugin.Config, getattr(plugin, "main_option", ""))
    return Driver(section, plugin.open, _distribution(entry_point))


def _distribution(entry_point: EntryPoint) -> str:
    distribution = entry_point.dist
    return f"{distribution.name} {distribution.version}" if distribution else "?"


def open_broker(config: Config) -> Broker:
    """The broker that the configuration names, not connected yet; the caller closes it.

    Raises:
        PluginError: It is not installed.
    """
    return installed_drivers().named(config.driver).open(config.broker)

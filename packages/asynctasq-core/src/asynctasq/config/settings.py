"""Configuration: argument, then `ASYNCTASQ_*` environment variable, then default.

Owns the rule that nothing is silently ignored: an unknown key is an error naming the nearest known
one, a key of an adapter that is not in use says why, and a misspelt variable is found.
"""

from __future__ import annotations

import os
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import ConfigurationError
from .fields import (
    PREFIX,
    check,
    check_variables,
    from_environment,
    in_form,
    unknown_name,
)

#: The broker unless another is named.
DEFAULT_DRIVER = "sqlite"

#: Options and names of adapters that may not be installed; only for advice in errors.
DISTRIBUTION_OF = {
    "sqlalchemy_engine": "asynctasq-sqlalchemy",
    "create_worker_session_factory": "asynctasq-sqlalchemy",
    "task_session": "asynctasq-sqlalchemy",
    "tortoise_config": "asynctasq-tortoise",
}


@dataclass(frozen=True, slots=True)
class Section:
    """One broker's part of the configuration.

    Attributes:
        driver: The broker's name, which is also the section's.
        fields: The dataclass of its options.
        main_option: The field that a bare string or path sets; empty if there is none.
    """

    driver: str
    fields: type[Any]
    main_option: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All of core's settings; adapters' options are in `adapter_options`.

    Attributes:
        driver: The broker's name. By default, the section given as an argument, preferring any
            other to `sqlite`; else the section with an environment variable, such as
            `ASYNCTASQ_REDIS_URL`; else `sqlite`.
        sections: The options of each installed broker by name, as an instance of the broker's own
            dataclass. `init` takes them as options: `redis=` a `RedisConfig`, or a mapping or URL
            for one; `sqlite=` a `SQLiteConfig`, or a mapping or path for one. What is left out, or
            at its default, comes from the environment.
        task_defaults: Options for every task that does not set them itself, as in `TaskConfig`.
        outbox: Keep a call that waits for a commit in a table of the application's database,
            written in the same transaction, until the broker has it. The tables must exist.
        done_ttl: How long to remember that an atomic task's call is done, in seconds; must be
            longer than a message can take to be delivered again.
        signing_key: One key or several; the first signs, each verifies. With a key set, unsigned
            messages are refused.
        max_payload_bytes: Size of the largest encoded message, in bytes.
        max_deliveries: How often a message is delivered to workers that die with it. Below 3, a
            message that merely ran alongside a deadly one may be given up too.
        unknown_for: How long a message waits, in seconds, if its task, arguments or model are not
            known: a worker with newer code may know them.
        outage_for: How long an outage of a database or the network puts tasks off, in seconds,
            before it starts to use up attempts.
        model_modules: Packages besides the worker's own from which models may be imported.
        imports: Modules that a worker loads besides those on its command line.
        show_arguments: Whether dead letters show the arguments of their calls.
        gc_tuning: Whether a worker process exempts everything loaded before its first task from
            garbage collection, and collects less often.
        adapter_options: Options claimed by adapters, by name.
    """

    driver: str = DEFAULT_DRIVER
    sections: Mapping[str, Any] = field(default_factory=dict)
    task_defaults: Mapping[str, Any] = field(default_factory=dict)
    outbox: bool = False
    done_ttl: float = 7 * 86_400.0
    signing_key: tuple[bytes, ...] = field(default=(), repr=False)
    max_payload_bytes: int = 1024 * 1024
    max_deliveries: int = 5
    unknown_for: float = 3600.0
    outage_for: float = 3600.0
    model_modules: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    show_arguments: bool = True
    gc_tuning: bool = True
    adapter_options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def broker(self) -> Any:
        """The options of the selected broker."""
        return self.sections[self.driver]

    @classmethod
    def load(
        cls,
        options: Mapping[str, Any],
        sections: Sequence[Section],
        adapter_names: Iterable[str] = (),
        environ: Mapping[str, str] = os.environ,
        not_loaded: Mapping[str, str] = MappingProxyType({}),
    ) -> Config:
        """Build the configuration from arguments and environment.

        Args:
            options: Keys of this class, of the brokers and of the adapters.
            sections: The sections of the installed brokers.
            adapter_names: Option names that installed adapters claim.
            environ: Where `ASYNCTASQ_*` variables are looked up.
            not_loaded: Why installed adapters are not in use, by distribution.

        Raises:
            ConfigurationError: A key or variable is unknown, or a value does not fit its field.
        """
        claimed = set(adapter_names)
        own = {f.name for f in fields(cls)} - {"adapter_options", "sections"}
        drivers = {section.driver: section for section in sections}
        known = own | drivers.keys() | claimed
        for name in options:
            if name not in known:
                raise ConfigurationError(_unknown(name, known, "option", not_loaded))
        check_variables(cls, {d: s.fields for d, s in drivers.items()}, claimed, environ)
        values = from_environment(cls, PREFIX, environ)
        values |= {k: v for k, v in options.items() if k in own}
        if "driver" not in values:
            values["driver"] = _implied_driver(options, sections, environ)
        if (driver := values["driver"]) not in list(drivers):
            known_drivers = ", ".join(sorted(drivers))
            raise ConfigurationError(f"driver must be one of {known_drivers}, not {driver!r:.200}")
        values["sections"] = {
            driver: _section(section, options.get(driver), environ)
            for driver, section in drivers.items()
        }
        values["adapter_options"] = {k: v for k, v in options.items() if k in claimed}
        return _checked(_built(cls, values))


def _implied_driver(
    options: Mapping[str, Any], sections: Sequence[Section], environ: Mapping[str, str]
) -> str:
    """The broker whose section was given, as an argument or else in the environment."""
    given = [s.driver for s in sections if options.get(s.driver) is not None]
    if not given:
        given = [s.driver for s in sections if from_environment(s.fields, _prefix(s), environ)]
    others = [driver for driver in given if driver != DEFAULT_DRIVER]
    if len(others) > 1:
        raise ConfigurationError(f"driver: say which of {', '.join(others)} to use")
    return others[0] if others else DEFAULT_DRIVER


def _prefix(section: Section) -> str:
    return f"{PREFIX}{section.driver.upper()}_"


def _checked(config: Config) -> Config:
    if any(not 16 <= len(key) <= 64 for key in config.signing_key):
        raise ConfigurationError("signing_key: each key must be 16 to 64 bytes long")
    return config


QUEUE_RULE = "1 to 200 printable characters without spaces, commas and braces"


def is_queue_name(name: object) -> bool:
    """Whether a queue may have this name: `QUEUE_RULE`; braces would break Redis hash tags."""
    if not isinstance(name, str):
        return False
    return 0 < len(name) <= 200 and name.isprintable() and not set(name) & set(" ,{}")


def _unknown(
    name: str,
    known: Iterable[str],
    kind: str,
    not_loaded: Mapping[str, str] = MappingProxyType({}),
) -> str:
    if name in DISTRIBUTION_OF:
        distribution = DISTRIBUTION_OF[name]
        why = not_loaded.get(distribution, "not installed")
        return f"{kind} {name!r} belongs to {distribution}, which is {why}"
    return unknown_name(name, known, kind)


def _section(section: Section, value: Any, environ: Mapping[str, str]) -> Any:
    """A broker's options: arguments first, then the environment, then defaults."""
    cls = section.fields
    if value is None:
        value = {}
    elif isinstance(value, str | Path) and section.main_option:
        value = {section.main_option: value}
    elif isinstance(value, cls):
        given = {f: getattr(value, f.name) for f in fields(cls)}
        value = {f.name: v for f, v in given.items() if v != f.default}
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{cls.__name__} expected, not {type(value).__name__}")
    known = {f.name for f in fields(cls)}
    for name in value:
        if name not in known:
            raise ConfigurationError(f"{cls.__name__}: {_unknown(name, known, 'option')}")
    in_environment = from_environment(cls, _prefix(section), environ)
    return _built(cls, in_environment | dict(value), f"{cls.__name__}: ")


def _built(cls: type[Any], values: Mapping[str, Any], where: str = "") -> Any:
    hints = typing.get_type_hints(cls)
    built = cls(**{name: in_form(value, hints[name]) for name, value in values.items()})
    check(built, where)
    return built

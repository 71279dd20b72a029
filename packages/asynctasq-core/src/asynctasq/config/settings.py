"""Configuration: argument, then `ASYNCTASQ_*` environment variable, then default.

Owns the rule that nothing is silently ignored: an unknown key is an error naming the nearest known
one, a key of an adapter that is not in use says why, and a misspelt variable is found.
"""

from __future__ import annotations

import os
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypedDict

from ..errors import ConfigurationError
from .fields import (
    LONGEST_SECONDS,
    PREFIX,
    check,
    check_variables,
    from_environment,
    in_form,
    is_duration,
    nearest,
)

#: The broker where nothing says another.
DEFAULT_DRIVER = "sqlite"

#: Options and names of adapters that may not be installed, for the error's advice only.
DISTRIBUTION_OF = {
    "sqlalchemy_engine": "asynctasq-sqlalchemy",
    "create_worker_session_factory": "asynctasq-sqlalchemy",
    "task_session": "asynctasq-sqlalchemy",
    "tortoise_config": "asynctasq-tortoise",
}


class TaskConfig(TypedDict, total=False):
    """Options of a task, as `@task(...)` takes them and class-based tasks set them in `config`.

    Keys:
        name: The task's name on the wire; by default `module.qualname`.
        queue: By default `"default"`.
        max_attempts: How often the task runs at most, the first run included; 3.
        retry_delay: Seconds before the first retry; 60.
        retry_strategy: `"exponential"` (doubling, at most a day) or `"fixed"`.
        retry_jitter: Whether a random part of up to half the delay is taken off.
        retry_on: Exception classes that are retried; all others go to the dead letters at once.
        timeout: Seconds that one run may take; `None` for no limit.
        process: Run a `def` task in a process of its own pool.
        on_missing: What happens when a row is gone: `"fail"`, `"skip"` or `"none"`.
        result_ttl: Seconds to keep the result; `None` keeps none.
    """

    name: str
    queue: str
    max_attempts: int
    retry_delay: float
    retry_strategy: Literal["exponential", "fixed"]
    retry_jitter: bool
    retry_on: type[BaseException] | tuple[type[BaseException], ...] | None
    timeout: float | None
    process: bool
    on_missing: Literal["fail", "skip", "none"]
    result_ttl: float | None


@dataclass(frozen=True, slots=True)
class Section:
    """The part of the configuration that belongs to one broker.

    Attributes:
        driver: The broker's name, and the name of the section.
        fields: The dataclass of its options.
        main_option: The field that a mere string or path stands for; empty if there is none.
    """

    driver: str
    fields: type[Any]
    main_option: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that core can be told; adapters' options are in `adapter_options`.

    Attributes:
        driver: The broker's name. By default that of the section which is given as an argument,
            another before `sqlite`; else of the one that has an environment variable, such as
            `ASYNCTASQ_REDIS_URL`; else `sqlite`.
        sections: The options of each installed broker by its name, as an instance of the broker's
            own dataclass. `init` takes them as options: `redis=` a `RedisConfig`, or a mapping or
            URL for one; `sqlite=` a `SQLiteConfig`, or a mapping or path for one. What is left out,
            or at its default, comes from the environment.
        task_defaults: Options of every task that does not set them.
        signing_key: One key or several; the first signs, each verifies. Unsigned messages are
            then refused.
        max_payload_bytes: Largest encoded message.
        max_deliveries: How often a message is delivered to workers that die with it; below 3,
            one that only ran beside a deadly message may be given up with it.
        model_modules: Packages besides the worker's own from which models may be imported.
        imports: Modules that a worker loads besides those on its command line.
        adapter_options: Options claimed by adapters, by name.
    """

    driver: str = DEFAULT_DRIVER
    sections: Mapping[str, Any] = field(default_factory=dict)
    task_defaults: TaskConfig = field(default_factory=TaskConfig)
    signing_key: tuple[bytes, ...] = field(default=(), repr=False)
    max_payload_bytes: int = 1024 * 1024
    max_deliveries: int = 5
    model_modules: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    adapter_options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def broker(self) -> Any:
        """The options of the broker in use."""
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
            sections: Those of the installed brokers.
            adapter_names: Option names that installed adapters claim.
            environ: Where `ASYNCTASQ_*` variables are looked up.
            not_loaded: Why installed distributions of adapters are not in use, by their name.

        Raises:
            ConfigurationError: An unknown key or variable, or a value that cannot be one.
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
        values.setdefault("driver", _implied_driver(options, sections, environ))
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
    """The broker whose section was given: as an argument, or else in the environment."""
    given = [s.driver for s in sections if options.get(s.driver) is not None]
    if not given:
        given = [s.driver for s in sections if from_environment(s.fields, _prefix(s), environ)]
    others = [driver for driver in given if driver != DEFAULT_DRIVER]
    if len(others) > 1:
        raise ConfigurationError(f"driver: say which of {', '.join(others)} is to be used")
    return others[0] if others else DEFAULT_DRIVER


def _prefix(section: Section) -> str:
    return f"{PREFIX}{section.driver.upper()}_"


def _checked(config: Config) -> Config:
    check_task_options(config.task_defaults, "task_defaults")
    if any(not 16 <= len(key) <= 64 for key in config.signing_key):
        raise ConfigurationError("signing_key: each key must be 16 to 64 bytes long")
    return config


def check_task_options(options: Mapping[str, Any], where: str) -> None:
    """Refuse task options that do not exist or cannot work.

    Raises:
        ConfigurationError: Names `where` and the option.
    """
    known = TaskConfig.__annotations__.keys()
    for name in options:
        if name not in known:
            raise ConfigurationError(f"{where}: {_unknown(name, known, 'task option')}")
    rules: dict[str, tuple[Callable[[Any], bool], str]] = {
        "name": (lambda v: isinstance(v, str) and 0 < len(v) <= 500, "1 to 500 characters"),
        "max_attempts": (lambda v: isinstance(v, int) and v >= 1, "a whole number of at least 1"),
        "retry_delay": (lambda v: 0 <= v <= LONGEST_SECONDS, "seconds, 0 to 1e9"),
        "retry_strategy": (lambda v: v in ("exponential", "fixed"), '"exponential" or "fixed"'),
        "retry_jitter": (lambda v: isinstance(v, bool), "True or False"),
        "retry_on": (_are_exceptions, "an exception class or a tuple of them"),
        "process": (lambda v: isinstance(v, bool), "True or False"),
        "timeout": (is_duration, "seconds above 0, or None"),
        "result_ttl": (is_duration, "seconds above 0, or None"),
        "on_missing": (lambda v: v in ("fail", "skip", "none"), '"fail", "skip" or "none"'),
        "queue": (lambda v: isinstance(v, str) and is_queue_name(v), QUEUE_RULE),
    }
    for name, (holds, rule) in rules.items():
        if name in options:
            try:
                valid = holds(options[name])
            except TypeError:
                valid = False
            if not valid:
                raise ConfigurationError(
                    f"{where}: {name} must be {rule}, not {options[name]!r:.200}"
                )


def _are_exceptions(value: Any) -> bool:
    classes = value if isinstance(value, tuple) else (value,)
    return value is None or all(
        isinstance(c, type) and issubclass(c, BaseException) for c in classes
    )


QUEUE_RULE = "1 to 200 printable characters without spaces, commas and braces"


def is_queue_name(name: str) -> bool:
    """Whether a queue may have this name: `QUEUE_RULE`; braces would break Redis hash tags."""
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
    near = nearest(name, known)
    advice = f"did you mean {near!r}?" if near else f"known are {', '.join(sorted(known))}"
    return f"unknown {kind} {name!r}: {advice}"


def _section(section: Section, value: Any, environ: Mapping[str, str]) -> Any:
    """A broker's options: what was given, over the environment's, over the defaults."""
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

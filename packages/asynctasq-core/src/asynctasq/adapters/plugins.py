"""Loads adapters from entry points one by one, and calls them without pluggy's relay.

Owns the rule that a broken plugin hides no other: it is reported, and named when its ORM is needed.
Nothing else in core touches pluggy. Adapters are asked about each type only once.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

import pluggy

from ..config.settings import DISTRIBUTION_OF
from ..errors import InvalidReference, PluginError, UnknownModel
from ..events import Event
from ..wire.reference import Ref
from . import hookspecs
from .lazy import unfetched_reference
from .statements import Database, Run, Transaction

GROUP = "asynctasq"
State = Literal["loaded", "failed", "blocked"]


@dataclass(frozen=True, slots=True)
class PluginReport:
    """One line of `asynctasq plugins`.

    Attributes:
        state: `loaded`; `failed`, with the reason; or `blocked` by `ASYNCTASQ_PLUGINS`.
    """

    name: str
    distribution: str
    version: str
    state: State
    reason: str = ""


class Adapter:
    """One plugin's hooks, each a plain function, or `None` if the plugin lacks it."""

    is_model: Callable[[object], bool | None] | None
    fetch_many: Callable[[Sequence[Ref]], Awaitable[Sequence[object | None]]] | None
    is_outage: Callable[[Exception], bool | None] | None
    plain_form: Callable[[object], Callable[[Any], object] | None] | None
    option_names: Callable[[], Iterable[str]] | None
    configure: Callable[[Mapping[str, Any]], None] | None
    prepare: Callable[[], Iterable[str] | None] | None
    explain_import: Callable[[Exception], str | None] | None
    queue_names: Callable[[], Iterable[str]] | None
    worker_started: Callable[[object], Awaitable[None] | None] | None
    worker_stopped: Callable[[object], Awaitable[None] | None] | None
    fetch_scope: Callable[[str, Sequence[Any]], AbstractContextManager[object] | None] | None
    task_scope: (
        Callable[[object, Sequence[object]], AbstractAsyncContextManager[object] | None] | None
    )
    thread_scope: Callable[[object, Sequence[object]], AbstractContextManager[object] | None] | None
    run_ended: Callable[[object, str, object, BaseException | None], Awaitable[None] | None] | None
    on_event: Callable[[Event], object] | None
    metrics_page: Callable[[bool], hookspecs.MetricsPage] | None
    message_headers: Callable[[str, str, str], Mapping[str, str] | None] | None
    is_pending_write: Callable[[object], bool] | None
    after_commit: Callable[[object, object], None] | None
    owns_transaction: Callable[[object], bool | None] | None
    open_transaction: Callable[[], object | None] | None
    databases: Callable[[], Iterable[Database]] | None
    own_transaction: Callable[[Database], AbstractAsyncContextManager[Run]] | None
    atomic_transaction: (
        Callable[[object, Sequence[Ref]], AbstractAsyncContextManager[Transaction]] | None
    )
    check: Callable[[], Any] | None
    lazy_names: Callable[[], Mapping[str, str]] | None
    adapter_suite: Callable[[], str] | None

    def __init__(self, name: str, plugin: object, relay: pluggy.PluginManager) -> None:
        self.name = name
        for hook in hookspecs.HOOKS:
            implementations = getattr(relay.hook, hook).get_hookimpls()
            mine = next((i for i in implementations if i.plugin is plugin), None)
            attribute = "_to_ref" if hook == "to_ref" else hook
            setattr(self, attribute, _direct(hook, mine) if mine else None)
        if self.is_model is not None and not (self._to_ref and self.fetch_many):
            raise PluginError("it has is_model, so it needs to_ref and fetch_many too")

    _to_ref: Callable[[object], Ref] | None

    def to_ref(self, obj: object) -> Ref:
        """The adapter's reference for the instance, carrying the adapter's name."""
        if self._to_ref is None:
            raise PluginError(f"adapter {self.name!r} has no to_ref hook")
        # Pass on a lazy instance's reference as it came: its row may not be fetchable here.
        return unfetched_reference(obj) or self._to_ref(obj)


def _direct(hook: str, implementation: pluggy.HookImpl) -> Callable[..., Any]:
    """The implementation, wrapped to take all of the hook's arguments by position."""
    function: Callable[..., Any] = implementation.function
    if implementation.hookwrapper or implementation.wrapper:
        raise PluginError(f"{hook} is a wrapper: adapters' hooks are called without a relay")
    spec = getattr(hookspecs, hook).__code__
    all_names = spec.co_varnames[: spec.co_argcount]
    places = [all_names.index(name) for name in implementation.argnames]
    if places == list(range(len(all_names))):
        return function
    if not places:
        return lambda *_: function()
    if len(places) == 1:
        (only,) = places
        return lambda *args: function(args[only])
    return lambda *args: function(*[args[i] for i in places])


#: Read these from a class without running its metaclass's code.
_BASES_OF_CLASS: Callable[[Any], tuple[type, ...]] = type.__dict__["__mro__"].__get__
_DICT_OF_CLASS: Callable[[Any], Mapping[str, object]] = type.__dict__["__dict__"].__get__

_never_deleted: list[object] = []


class Adapters:
    """The installed adapters.

    Args:
        plugins: Plugins by name, to use instead of the entry points.
    """

    def __init__(self, plugins: Mapping[str, object] | None = None) -> None:
        self.reports: list[PluginReport] = []
        self.loaded: dict[str, Adapter] = {}
        self.header_hooks: list[Callable[[str, str, str], Mapping[str, str] | None]] = []
        self._owners: dict[int, tuple[type, Adapter | None]] = {}
        self._plain: dict[type, Callable[[Any], object] | None] = {}
        if plugins is None:
            found, chosen = _entry_points(), _chosen()
            for entry_point, state, reason in _wanted(found, chosen):
                self._load(entry_point, state, reason)
            for name in sorted((chosen or set()) - {e.name for e in found}):
                self.reports.append(
                    PluginReport(name, "?", "?", "failed", "in ASYNCTASQ_PLUGINS, not installed")
                )
        else:
            for name, plugin in plugins.items():
                self._register(name, plugin)

    def _load(self, entry_point: EntryPoint, state: State, reason: str) -> None:
        distribution = entry_point.dist
        name, version = (distribution.name, distribution.version) if distribution else ("?", "?")
        if state == "loaded":
            try:
                self._register(entry_point.name, entry_point.load())
            # A plugin's code may raise anything or even exit; it must not hide other plugins.
            except (Exception, SystemExit) as e:  # noqa: BLE001
                state, reason = "failed", f"{type(e).__name__}: {e}"
        self.reports.append(PluginReport(entry_point.name, name, version, state, reason))

    def _register(self, name: str, plugin: object) -> None:
        if name in self.loaded:
            raise PluginError(f"another distribution's adapter is named {name!r} too")
        if isinstance(plugin, type):
            plugin = plugin()
        relay = pluggy.PluginManager(GROUP)  # one per plugin, so that a failure leaves no trace
        relay.add_hookspecs(hookspecs)
        relay.register(plugin, name=name)
        relay.check_pending()
        adapter = self.loaded[name] = Adapter(name, plugin, relay)
        if adapter.message_headers is not None:
            self.header_hooks.append(adapter.message_headers)
        self._owners.clear()
        self._plain.clear()

    def owner_of(self, obj: object) -> Adapter | None:
        """The adapter that owns the object's type, or `None` if it is not a model.

        Raises:
            PluginError: Two adapters claim the type.
        """
        cls = type(obj)
        if (known := self._owners.get(id(cls))) is not None:
            return known[1]
        owner = self._ask(obj)
        self._owners[id(cls)] = (cls, owner)
        return owner

    def _ask(self, obj: object) -> Adapter | None:
        owners = [a for a in self.loaded.values() if a.is_model is not None and a.is_model(obj)]
        if len(owners) > 1:
            names = " and ".join(a.name for a in owners)
            raise PluginError(f"adapters {names} both claim {type(obj).__qualname__}")
        return owners[0] if owners else None

    def plain_form(self, obj: object) -> Callable[[Any], object] | None:
        """The function that makes values of the object's type plain, if an adapter has one."""
        cls = type(obj)
        if cls not in self._plain:
            hooks = (adapter.plain_form for adapter in self.loaded.values())
            found = (hook(obj) for hook in hooks if hook is not None)
            self._plain[cls] = next(filter(None, found), None)
        return self._plain[cls]

    def owner_of_reference(self, ref: Ref) -> Adapter:
        """The adapter that a reference names, once its class proves to be that adapter's model.

        Raises:
            InvalidReference: There is no such adapter or class, or the class is not a model of that
                adapter; an `UnknownModel` if newer code may have it.
        """
        adapter = self.loaded.get(ref.orm)
        if adapter is None:
            failed = next((r.reason for r in self.reports if r.name == ref.orm), "not installed")
            raise UnknownModel(f"no adapter {ref.orm[:50]!r}: {failed}")
        cls = ref.model_class()
        if self.owner_of_class(cls) is not adapter:
            raise InvalidReference(f"{ref.model[:200]!r} is not a model of {ref.orm!r}")
        return adapter

    def is_model_class(self, cls: type) -> bool:
        """Whether some adapter's models include this class."""
        return self.owner_of_class(cls) is not None

    def owner_of_class(self, cls: type) -> Adapter | None:
        """The adapter that owns the class, or `None` if it is not a model.

        A message may name any class, so neither its code nor its metaclass's may run. A metaclass
        can override comparison and hashing, so classes are told apart by identity.
        """
        if (known := self._owners.get(id(cls))) is not None:
            return known[1]
        try:
            # `is_model` depends on the type alone, so a bare object stands for the class.
            bare: object = object.__new__(cls)
        except TypeError:
            return None
        owner = self._ask(bare)
        self._owners[id(cls)] = (cls, owner)
        if any("__del__" in _DICT_OF_CLASS(base) for base in _BASES_OF_CLASS(cls)):
            _never_deleted.append(bare)
        return owner

    def with_hook(self, hook: str) -> list[Adapter]:
        """The adapters that implement the hook."""
        return [a for a in self.loaded.values() if getattr(a, hook, None) is not None]

    def event_hooks(self) -> list[Callable[[Event], object]]:
        """The plugins' `on_event` hooks."""
        hooks = (adapter.on_event for adapter in self.loaded.values())
        return [hook for hook in hooks if hook is not None]

    def option_names(self) -> set[str]:
        """Every option that an adapter claims.

        Raises:
            PluginError: Two adapters claim one option.
        """
        names: dict[str, str] = {}
        for adapter in self.with_hook("option_names"):
            for name in adapter.option_names():  # type: ignore[misc]
                if name in names:
                    raise PluginError(f"{names[name]} and {adapter.name} both claim {name!r}")
                names[name] = adapter.name
        return set(names)

    def configure(self, options: Mapping[str, Any]) -> None:
        """Pass each adapter the options that it claims, as far as they were given."""
        for adapter in self.with_hook("configure"):
            names = set(adapter.option_names()) if adapter.option_names else set()
            adapter.configure({k: v for k, v in options.items() if k in names})  # type: ignore[misc]

    def lazy_name(self, name: str) -> object:
        """The object that an adapter offers as `asynctasq.<name>`.

        Raises:
            AttributeError: No adapter offers it; says which distribution would, if known.
        """
        for adapter in self.with_hook("lazy_names"):
            if (target := adapter.lazy_names().get(name)) is not None:  # type: ignore[misc]
                module, _, attribute = target.partition(":")
                return getattr(import_module(module), attribute)
        if name in DISTRIBUTION_OF:
            raise AttributeError(
                f"asynctasq.{name} comes from {DISTRIBUTION_OF[name]}: "
                f"install it, or see `asynctasq plugins` for why it did not load"
            )
        raise AttributeError(f"module 'asynctasq' has no attribute {name!r}")

    def not_loaded(self) -> dict[str, str]:
        """Why installed adapters are not in use, by distribution."""
        return {
            r.distribution: f"{r.state}: {r.reason}" for r in self.reports if r.state != "loaded"
        }

    def failures(self) -> str:
        """Why adapters did not load, to append to an error message; empty if all did."""
        failed = [
            f"adapter {r.name!r} failed to load: {r.reason}"
            for r in self.reports
            if r.state == "failed"
        ]
        return "; ".join(failed)


def _chosen() -> set[str] | None:
    """The names in `ASYNCTASQ_PLUGINS`; `None` if it is not set."""
    chosen = os.environ.get("ASYNCTASQ_PLUGINS")
    return None if chosen is None else {n.strip() for n in chosen.split(",") if n.strip()}


def _entry_points() -> list[EntryPoint]:
    return sorted(entry_points(group=GROUP), key=lambda e: (e.name, _distribution(e)))


def _wanted(
    found: list[EntryPoint], names: set[str] | None
) -> Iterable[tuple[EntryPoint, State, str]]:
    """Each entry point with whether to load it, and the reason if not."""
    for entry_point in found:
        rivals = {_distribution(e) for e in found if e.name == entry_point.name}
        if names is not None and entry_point.name not in names:
            yield entry_point, "blocked", "not in ASYNCTASQ_PLUGINS"
        elif len(rivals) > 1:
            both = " and ".join(sorted(rivals))
            yield entry_point, "failed", f"{both} both provide it; uninstall one of them"
        else:
            yield entry_point, "loaded", ""


def _distribution(entry_point: EntryPoint) -> str:
    return entry_point.dist.name if entry_point.dist else "?"


_installed: Adapters | None = None


def installed() -> Adapters:
    """This process's adapters, loaded on the first call."""
    global _installed
    if _installed is None:
        _installed = Adapters()
    return _installed

"""The application: its configuration, its adapters and its connections."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from time import monotonic
from typing import Any, TypeVar

from .adapters.plugins import Adapters, installed
from .brokers import Broker, Policing, Remembering, Transactional
from .brokers.opening import installed_drivers, open_broker
from .config import Config
from .errors import ConfigurationError, DuplicateCall
from .events import is_listening, listen, unlisten
from .policies.asking import unique_of
from .sending.batch_reports import BatchReports
from .sending.commits import open_atomic
from .sending.connections import Connections
from .sending.deferred import Deferred
from .sending.handle import TaskHandle
from .sending.joining import Joining
from .sending.outbox import Outbox
from .sending.preparing import Prepared, prepare
from .tasks import runtime
from .tasks.call import Call, Dispatchable
from .tasks.options import TaskOptions, check_defaults, check_task_options
from .tasks.task import Task
from .wire.class_paths import allow_packages
from .wire.flow import BatchPlace, following_id

R = TypeVar("R")

#: How long preparing many calls may block the event loop at a time, and how many handles to make at
#: a time, which is cheaper.
_SLICE_SECONDS, _SLICE_HANDLES = 0.01, 1000


class App:
    """One configuration with its connections; `init` makes it, everything else looks it up.

    Args:
        config: The loaded configuration.
        adapters: The installed adapters.

    Attributes:
        outbox: For atomic tasks, and with `Config.outbox` for every call that waits for a commit.
    """

    def __init__(self, config: Config, adapters: Adapters) -> None:
        self.config = config
        self.adapters = adapters
        opening = _instead or (lambda: open_broker(config))
        self.connections = Connections(opening, config.signing_key)
        self._joining: Joining | None = None
        self._joins = None if _instead is None else False
        self.outbox = Outbox(adapters, self.connections, lambda: self.joining)
        self._keeps_calls = config.outbox and _instead is None
        self._polices: bool | None = None
        self._remembers: bool | None = None
        self._reports: tuple[Broker, BatchReports] | None = None

    def open_broker(self) -> Broker:
        """The broker of the running event loop, closed when the loop is shut down."""
        return self.connections.broker()

    @property
    def joining(self) -> Joining | None:
        """Does the broker's work in the application's transactions, if the broker supports that."""
        if self._joins is None:
            broker = open_broker(self.config)
            self._joins = isinstance(broker, Transactional)
            if isinstance(broker, Transactional):
                self._joining = Joining(broker, self.connections, self.config.signing_key)
        return self._joining

    async def dispatch(self, call: Call[R]) -> TaskHandle[R]:
        """See `Call.dispatch`."""
        prepared = prepare(call, self.config, self.adapters)
        handle = self._handle(call, prepared)
        if prepared.defer is None:
            conflicts = await self.connections.put((prepared.outgoing,))
            if conflicts:
                standing = await self.connections.resolve((prepared.outgoing,), conflicts)
                self._note_existing((call,), (handle,), standing)
        return self._last(call, handle) if call.following else handle

    def dispatch_sync(self, call: Call[R]) -> TaskHandle[R]:
        """See `Call.dispatch_sync`."""
        prepared = prepare(call, self.config, self.adapters)
        handle = self._handle(call, prepared)
        if prepared.defer is None:
            standing = self.connections.put_blocking((prepared.outgoing,))
            self._note_existing((call,), (handle,), standing)
        return self._last(call, handle) if call.following else handle

    async def dispatch_many(self, calls: Iterable[Dispatchable[Any]]) -> list[TaskHandle[Any]]:
        """See `asynctasq.dispatch_many`."""
        to_send, prepared = [c._as_call() for c in calls], []
        since = monotonic()
        for call in to_send:
            prepared.append(prepare(call, self.config, self.adapters))
            if monotonic() - since > _SLICE_SECONDS:
                await asyncio.sleep(0)
                since = monotonic()
        handles: list[TaskHandle[Any]] = []
        try:
            for i, (call, ready) in enumerate(zip(to_send, prepared, strict=True)):
                if i % _SLICE_HANDLES == _SLICE_HANDLES - 1:
                    await asyncio.sleep(0)
                handles.append(self._handle(call, ready))
        except BaseException:
            _drop(handles)
            raise
        now = [ready.outgoing for ready in prepared if ready.defer is None]
        if now:
            self._note_existing(to_send, handles, await self.connections.put_resolved(now))
        return [*map(self._last, to_send, handles)]

    def dispatch_many_sync(self, calls: Iterable[Dispatchable[Any]]) -> list[TaskHandle[Any]]:
        """See `asynctasq.dispatch_many_sync`."""
        to_send = [c._as_call() for c in calls]
        prepared = [prepare(call, self.config, self.adapters) for call in to_send]
        handles: list[TaskHandle[Any]] = []
        try:
            for call, ready in zip(to_send, prepared, strict=True):
                handles.append(self._handle(call, ready))
        except BaseException:
            _drop(handles)
            raise
        now = [ready.outgoing for ready in prepared if ready.defer is None]
        if now:
            self._note_existing(to_send, handles, self.connections.put_blocking(now))
        return [*map(self._last, to_send, handles)]

    def _note_existing(
        self,
        calls: Sequence[Call[Any]],
        handles: Sequence[TaskHandle[Any]],
        standing: Mapping[str, str],
    ) -> None:
        """Point handles of calls whose unique keys were taken at the existing calls.

        Raises:
            DuplicateCall: For the first of them whose policy makes that an error.
        """
        if not standing:
            return
        duplicates: list[DuplicateCall] = []
        for call, handle in zip(calls, handles, strict=True):
            if (existing := standing.get(handle.id)) is None:
                continue
            handle.stand_for(existing)
            unique = unique_of(call, call.options(self.config.task_defaults))
            if unique is not None and unique.on_conflict == "raise":
                duplicates.append(DuplicateCall(call.task.name, existing))
        if duplicates:
            raise duplicates[0]

    def need_remembering(self, what: str) -> None:
        """Refuse following calls and batches if the broker cannot keep them.

        Raises:
            ConfigurationError: Names `what`.
        """
        if self._remembers is None:
            self._remembers = isinstance(open_broker(self.config), Remembering)
        if not self._remembers:
            raise ConfigurationError(
                f"{what}: driver {self.config.driver!r} cannot keep what follows a call"
            )

    def remembering(self, what: str) -> Remembering:
        """The broker of the running event loop, typed as one that keeps values.

        Raises:
            ConfigurationError: It keeps none; names `what` needs it.
        """
        broker = self.open_broker()
        if not isinstance(broker, Remembering):
            raise ConfigurationError(f"{what}: {broker.describe()} keeps no values")
        return broker

    async def tell_cancelled(self, place: BatchPlace) -> None:
        """Tell a batch that one of its calls was cancelled before it ran."""
        broker = self.open_broker()
        if self._reports is None or self._reports[0] is not broker:
            self._reports = (broker, BatchReports(self.config, self.adapters, broker))
        await self._reports[1].report(place, is_done=False, result=None)

    def handle_of(
        self, call: Call[R], message_id: str, parent: TaskHandle[Any] | None = None
    ) -> TaskHandle[R]:
        """The handle of a call that follows another."""
        options = call.options(self.config.task_defaults)
        handle = self._new_handle(message_id, call.queue or options.queue, call.task, options)
        handle.was_sent_here, handle.parent = parent is not None, parent
        return handle

    def _last(self, call: Call[R], handle: TaskHandle[Any]) -> TaskHandle[R]:
        """The handle of the last call in a dispatched call's chain, or of the call itself."""
        for link in call.following:
            follows = self.handle_of(link.call, following_id(handle.id), handle)
            handle.children.append(follows)
            handle = follows
        return handle

    def _need_policing(self, call: Call[Any]) -> None:
        """Refuse a policy or a priority that the broker would not honour."""
        if self._polices is None:
            self._polices = isinstance(open_broker(self.config), Policing)
        if not self._polices:
            raise ConfigurationError(
                f"call of {call.task.name}: driver {self.config.driver!r} knows no limits, rates, "
                f"unique calls or priorities"
            )

    def handle(self, task: Task[..., R], message_id: str, queue: str | None) -> TaskHandle[R]:
        """See `Task.handle`."""
        options = task.options(self.config.task_defaults)
        return self._new_handle(message_id, queue or options.queue, task, options)

    def _new_handle(
        self, message_id: str, queue: str, task: Task[..., R], options: TaskOptions
    ) -> TaskHandle[R]:
        return TaskHandle(
            message_id,
            queue,
            task,
            options.result_ttl,
            self.connections,
            self.config.signing_key,
            self.adapters,
            outbox=self._outbox_in_use(),
            status_ttl=options.status_ttl,
            shows_arguments=self.config.show_arguments,
        )

    def _handle(self, call: Call[R], prepared: Prepared) -> TaskHandle[R]:
        outgoing = prepared.outgoing
        outbox = None if prepared.defer is None else self._outbox_in_use()
        if call.following or call.place is not None:
            self.need_remembering(f"call of {call.task.name}")
        if outgoing.policy is not None or outgoing.priority:
            self._need_policing(call)
        handle = TaskHandle(
            outgoing.id,
            outgoing.queue,
            call.task,
            prepared.options.result_ttl,
            self.connections,
            self.config.signing_key,
            self.adapters,
            outbox=outbox,
            status_ttl=prepared.options.status_ttl,
            was_sent_here=True,
            shows_arguments=self.config.show_arguments,
        )
        if call.place is not None:
            handle.told_when_cancelled = partial(self.tell_cancelled, call.place)
        if prepared.defer is not None:
            handle._deferred = Deferred(
                self.connections, outgoing, outbox, self.joining, learn=handle.stand_for
            )
            prepared.defer(handle._deferred)
        return handle

    def _outbox_in_use(self) -> Outbox | None:
        """The outbox, if the configuration or the atomic task running here keeps calls in it."""
        return self.outbox if self._keeps_calls or open_atomic() is not None else None


def _drop(handles: Iterable[TaskHandle[Any]]) -> None:
    """Take back calls that wait for a commit, after one of the same dispatch failed."""
    for handle in handles:
        handle.drop()


_current: App | None = None
_instead: Callable[[], Broker] | None = None
_lock = threading.RLock()


def init(config: Mapping[str, Any] | None = None, /, **options: Any) -> Config:
    """Configure asynctasq; options and keys of `config` mean the same.

    Args:
        config: Keys of `Config`, of the installed brokers and of the installed adapters.
        options: The same keys; they win over `config`.

    Returns:
        The configuration with environment variables and defaults filled in.

    Raises:
        ConfigurationError: An unknown key or variable, an impossible value, or a key of an adapter
            that is not installed, blocked or broken.
    """
    loaded = load_config({**(config or {}), **options})
    adapters = installed()
    adapters.configure(loaded.adapter_options)
    allow_packages(loaded.model_modules)
    with _lock:
        if _current is not None:
            _current.connections.leave_portal()
        _use(App(loaded, adapters))
    return loaded


def load_config(options: Mapping[str, Any]) -> Config:
    """The configuration that `init` would make from these options, without applying it.

    Raises:
        ConfigurationError: As for `init`.
    """
    adapters, drivers = installed(), installed_drivers()
    driver = str(options.get("driver"))
    if driver in drivers.failed:
        raise ConfigurationError(f"driver {driver!r}: {drivers.failed[driver]}")
    config = Config.load(
        options,
        drivers.sections,
        adapters.option_names(),
        not_loaded=adapters.not_loaded(),
    )
    check_task_options(config.task_defaults, "task_defaults")
    check_defaults(config.task_defaults)
    # Does not connect. It checks the address, and imports the driver now so that the first dispatch
    # does not pay for it.
    open_broker(config)
    return config


def adopt(config: Config) -> None:
    """Use the parent process's configuration, unless modules in this one have called `init`."""
    with _lock:
        if _current is None:
            allow_packages(config.model_modules)
            _use(App(config, installed()))


def _use(app: App) -> None:
    """Make it the current application; its plugins hear of events from now on."""
    global _current
    former = [] if _current is None else _current.adapters.event_hooks()
    _current = app
    for hook in app.adapters.event_hooks():
        if not is_listening(hook):
            listen(hook)
    for hook in former:
        if hook not in app.adapters.event_hooks():
            unlisten(hook)


@contextmanager
def broker_instead(open_one: Callable[[], Broker]) -> Iterator[None]:
    """In tests: use this broker and no outbox meanwhile, whatever is or will be configured."""
    global _current, _instead
    with _lock:
        former, outer = _current, _instead
        _instead = open_one
        begun = _current = None if former is None else App(former.config, former.adapters)
    try:
        yield
    finally:
        with _lock:
            _instead = outer
            if _current is not None:
                _current.connections.leave_portal()
            if _current is None or _current is begun:
                _current = former
            else:  # `init` was called inside the block
                _current = App(_current.config, _current.adapters)


def current() -> App:
    """The application configured last, or one made from the environment and defaults."""
    if _current is None:
        with _lock:  # the first use may come from several threads
            if _current is None:
                init()
    assert _current is not None
    return _current


runtime.current = current
runtime.load_adapters = installed
runtime.is_model = lambda obj: installed().owner_of(obj) is not None
runtime.is_model_class = lambda cls: installed().is_model_class(cls)


async def dispatch_many(calls: Iterable[Dispatchable[Any]]) -> list[TaskHandle[Any]]:
    """Put many calls on their queues, in order, 500 per round trip.

    Blocks the event loop for only some milliseconds at a time, however many calls there are.

    Raises:
        SerializationError: An argument cannot travel; nothing has been sent.
        BrokerUnavailable: The broker did not take them all; some may have been added.
    """
    return await current().dispatch_many(calls)


def dispatch_many_sync(calls: Iterable[Dispatchable[Any]]) -> list[TaskHandle[Any]]:
    """`dispatch_many` for synchronous code: blocks until the broker has the calls."""
    return current().dispatch_many_sync(calls)

"""The application: its configuration, and the broker connections of each event loop."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from .brokers import Broker, Outgoing
from .classes import AsyncTask, SyncTask
from .config import Config
from .dispatching import Deferred, DeferredSend, Outbox, Prepared, prepare, send_together_async
from .handle import TaskHandle
from .models import allow_packages
from .plugins import Adapters, installed
from .task import Call, Task

if TYPE_CHECKING:
    from .brokers.memory import MemoryStore

R = TypeVar("R")
Dispatchable = Call[Any] | AsyncTask[Any] | SyncTask[Any]


@dataclass(slots=True)
class _Connections:
    """What one event loop has open; closed with it."""

    broker: Broker
    outbox: Outbox
    closing: AsyncGenerator[None, None]


class App:
    """One configuration with its connections; `init` makes it, everything else finds it.

    Args:
        config: As loaded.
        adapters: The installed adapters.
    """

    def __init__(self, config: Config, adapters: Adapters) -> None:
        self.config = config
        self.adapters = adapters
        self._connections: WeakKeyDictionary[asyncio.AbstractEventLoop, _Connections]
        self._connections = WeakKeyDictionary()
        self._store: MemoryStore | None = None

    def open_broker(self) -> Broker:
        """The broker of the running event loop, closed when the loop is shut down."""
        return self._of_this_loop().broker

    def outbox(self) -> Outbox:
        """Where dispatches of the running event loop gather."""
        return self._of_this_loop().outbox

    def _of_this_loop(self) -> _Connections:
        loop = asyncio.get_running_loop()
        connections = self._connections.get(loop)
        if connections is None:
            broker = self.new_broker()
            connections = _Connections(broker, Outbox(broker), _close_with_loop(broker))
            self._connections[loop] = connections
            _start(connections.closing)
        return connections

    async def close(self) -> None:
        """Close what the running event loop has open; its next dispatch would open it anew."""
        connections = self._connections.pop(asyncio.get_running_loop(), None)
        if connections is not None:
            await connections.closing.aclose()

    def new_broker(self) -> Broker:
        """A broker of its own; whoever asks closes it."""
        if self.config.driver == "redis":
            from .brokers.redis import RedisBroker

            return RedisBroker(self.config.redis)
        if self.config.driver == "sqlite":
            from .brokers.sqlite import SQLiteBroker

            return SQLiteBroker(self.config.sqlite)
        from .brokers.memory import MemoryBroker, MemoryStore

        self._store = self._store or MemoryStore()
        return MemoryBroker(self._store)

    async def dispatch(self, call: Call[R]) -> TaskHandle[R]:
        """As `Call.dispatch`."""
        prepared = prepare(call, self)
        handle = self._handle(call, prepared)
        if prepared.defer is None:
            await self._of_this_loop().outbox.put((prepared.outgoing,))
        return handle

    def dispatch_sync(self, call: Call[R]) -> TaskHandle[R]:
        """As `Call.dispatch_sync`."""
        prepared = prepare(call, self)
        handle = self._handle(call, prepared)
        if prepared.defer is None:
            self.put_blocking(prepared.outgoing)
        return handle

    async def dispatch_many(self, calls: Iterable[Dispatchable]) -> list[TaskHandle[Any]]:
        """As `asynctasq.dispatch_many`."""
        to_send = [c._call if isinstance(c, AsyncTask | SyncTask) else c for c in calls]
        all_prepared = [prepare(call, self) for call in to_send]
        handles = [self._handle(c, p) for c, p in zip(to_send, all_prepared, strict=True)]
        now = [p.outgoing for p in all_prepared if p.defer is None]
        if now:
            await self._of_this_loop().outbox.put(now)
        return handles

    def handle(self, task: Task[..., R], message_id: str, queue: str | None) -> TaskHandle[R]:
        """As `Task.handle`."""
        options = task.options(self.config.task_defaults)
        return TaskHandle(message_id, queue or options.queue, task, options.result_ttl, self)

    def put_blocking(self, outgoing: Outgoing) -> None:
        """Put a message from synchronous code, in any thread."""

        async def put() -> None:
            await self.outbox().put((outgoing,))

        _portal.run(put())

    def _handle(self, call: Call[R], prepared: Prepared) -> TaskHandle[R]:
        outgoing = prepared.outgoing
        handle = TaskHandle(outgoing.id, outgoing.queue, call.task, prepared.result_ttl, self)
        if prepared.defer is not None:
            handle._deferred = Deferred(self, outgoing)
            prepared.defer(handle._deferred)
        return handle


async def _close_with_loop(broker: Broker) -> AsyncGenerator[None, None]:
    """Closed by `loop.shutdown_asyncgens()`, which every way of ending a loop properly calls."""
    try:
        yield
    finally:
        await broker.close()


def _start(closing: AsyncGenerator[None, None]) -> None:
    """Run it up to its `yield`, which waits for nothing, so that the loop knows of it."""
    try:
        closing.asend(None).send(None)
    except StopIteration:
        return


class _Portal:
    """An event loop in a thread of its own, where dispatches of synchronous code go out.

    One for the whole process, so that they share a connection and gather as others do; made anew
    in a forked child, which inherits no thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._started()).result()

    def leave(self, app: App) -> None:
        """Close what an application that is used no more has open here."""
        if self._loop is not None and self._pid == os.getpid():
            asyncio.run_coroutine_threadsafe(app.close(), self._loop)

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._pid != os.getpid():
                self._loop, self._pid = asyncio.new_event_loop(), os.getpid()
                threading.Thread(
                    target=self._loop.run_forever, name="asynctasq-dispatch", daemon=True
                ).start()
            return self._loop


_portal = _Portal()
_current: App | None = None


def init(config: Mapping[str, Any] | None = None, /, **options: Any) -> Config:
    """Configure asynctasq; an option and a key of `config` are the same thing.

    Args:
        config: Keys of `Config`, and of the installed adapters.
        options: The same; they win over `config`.

    Returns:
        The configuration with environment variables and defaults filled in.

    Raises:
        ConfigurationError: An unknown key or variable, a value that cannot be one, or a key of an
            adapter that is not installed, blocked or broken.
    """
    global _current
    loaded = load_config({**(config or {}), **options})
    adapters = installed()
    adapters.configure(loaded.adapter_options)
    allow_packages(loaded.model_modules)
    if _current is not None:
        _portal.leave(_current)
    _current = App(loaded, adapters)
    return loaded


def load_config(options: Mapping[str, Any]) -> Config:
    """The configuration that `init` would make of these options; nothing is configured.

    Raises:
        ConfigurationError: As `init`.
    """
    adapters = installed()
    config = Config.load(options, adapters.option_names(), not_loaded=adapters.not_loaded())
    # Opens nothing, but refuses an address that is none; and the first dispatch need not wait for
    # the import of the broker's module.
    App(config, adapters).new_broker()
    return config


def adopt(config: Config) -> None:
    """Use a parent process's configuration, unless this one's modules have made their own."""
    global _current
    if _current is None:
        allow_packages(config.model_modules)
        _current = App(config, installed())


def current() -> App:
    """The application as configured last, or as the environment and the defaults say."""
    if _current is None:
        init()
    assert _current is not None
    return _current


async def dispatch_many(calls: Iterable[Dispatchable]) -> list[TaskHandle[Any]]:
    """Put many calls on their queues in one round trip, in order.

    Raises:
        SerializationError: An argument cannot travel; nothing is sent then.
        BrokerUnavailable: The broker did not take them all; some may have been added.
    """
    return await current().dispatch_many(calls)


def send_together(sends: Iterable[DeferredSend]) -> None:
    """`send_together_async` for synchronous code, in any thread."""
    _portal.run(send_together_async(sends))

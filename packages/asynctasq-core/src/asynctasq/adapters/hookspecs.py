"""The hooks through which an adapter teaches asynctasq an ORM; documented in `docs/hooks.md`.

An adapter is a module (or an object) that implements some of these functions, each marked with
`@asynctasq.hookimpl`. An entry point in the group `asynctasq` points to it, and the entry point's
name is the ORM's name on the wire. An implementation may omit arguments that it does not use.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import pluggy

if TYPE_CHECKING:
    from ..brokers import Finding, QueueStats
    from ..events import Event
    from ..wire.message import Message
    from ..wire.reference import Ref
    from ..worker.worker import Worker
    from .statements import Database, Run, Transaction

hookspec = pluggy.HookspecMarker("asynctasq")
hookimpl = pluggy.HookimplMarker("asynctasq")


class DeferredSend(Protocol):
    """A dispatch that waits for a transaction. Use exactly one of its three methods, once."""

    def __call__(self) -> None:
        """Send now and block until the broker has the message; works in any thread."""

    async def send_async(self) -> None:
        """Send now, from a running event loop."""

    def drop(self) -> None:
        """Discard it: its transaction or savepoint was rolled back."""


MetricsPage = Callable[["Sequence[QueueStats] | None"], tuple[str, bytes]]


# The bodies are empty, so mypy would want each to return something.
# mypy: disable-error-code="empty-body"


@hookspec
def is_model(obj: object) -> bool | None:
    """Called once for each type found in arguments or references: is it one of your models?

    Must depend on `type(obj)` alone: in a worker, the object is bare, without state. Must not
    import the ORM: as long as the ORM is not in `sys.modules`, no instance of its models can exist.

    Returns:
        `True` to own the type; `False` or `None` to leave it to others.
    """


@hookspec
def to_ref(obj: object) -> Ref:
    """Called at dispatch for each model instance: return the reference that travels in its place.

    Must run no SQL and load nothing, even for an expired or detached instance.

    Raises:
        UnsavedModelError: The instance has no row yet. Go by the ORM's own state: a key with a
            default is set long before the insert.
        DeletedModelError: The row was deleted.
    """


@hookspec
def fetch_many(refs: Sequence[Ref]) -> Awaitable[Sequence[object | None]]:
    """Called in the worker with references to rows of ONE model, database and set of options.

    Run one query, or as many as the database's parameter limit requires, on the database that the
    references name and without a manager's default filters. `refs[0].model_class()` is the class,
    `refs[0].options` the metadata of the task's annotations. Keys may repeat; each place in the
    result needs its own instance, since two tasks never share one.

    Returns:
        The instances in the order of `refs`, with `None` where the row is gone.

    Raises:
        ReferenceUnavailable: The database could not answer; the task is retried later without
            using up an attempt.
        AdapterNotReady: The ORM is not initialised; the task gets objects that fetch themselves
            on first use.
        InvalidReference: A key cannot belong to this model; the message is dead-lettered.
    """


@hookspec
def is_outage(error: Exception) -> bool:
    """Called with an error that escaped a task: does it mean that the database is unavailable?

    Say so only for errors of your ORM and its drivers that waiting may cure: no connection, a lock
    that was not granted, a transaction that was rolled back in favour of another. The run is then
    put off without using up an attempt, for up to `outage_for` seconds.
    """


@hookspec
def plain_form(obj: object) -> Callable[[Any], object] | None:
    """Called once for each type that could not travel otherwise: how do its values become plain?

    For a subclass of `str`, `int`, `list`... that only adds behaviour, and for a proxy that stands
    for such a value until it is used. Like `is_model`, must depend on `type(obj)` alone.

    Returns:
        A function that turns a value of this type into the plain value that travels in its place;
        `None` to leave the type to others.
    """


@hookspec
def option_names() -> Collection[str]:
    """Called by `asynctasq.init`: the option names that you claim, such as `tortoise_config`."""


@hookspec
def configure(options: Mapping[str, Any]) -> None:
    """Called by each `asynctasq.init` with those of your options that were given, perhaps none.

    If the application never calls `init`, its first dispatch calls this.

    Raises:
        ConfigurationError: A value cannot work.
    """


@hookspec
def prepare() -> Iterable[str] | None:
    """Called in each process that runs tasks, before it imports the application's modules.

    Set up an ORM here if its models cannot be imported otherwise (Django). Runs with the working
    directory on `sys.path`; must tolerate repeated calls.

    Returns:
        Names of modules that the worker imports besides those it was given.
    """


@hookspec
def explain_import(error: Exception) -> str | None:
    """Called when one of the application's modules failed to import: what must the user do?

    Returns:
        One sentence, if your ORM caused the error, such as by a missing setting.
    """


@hookspec
def queue_names() -> Iterable[str]:
    """Called when a worker is created without a choice of queues: which more should it serve?

    For queues that the framework's own settings declare; core knows those that tasks name.
    """


@hookspec
def worker_started(worker: Worker) -> Awaitable[None] | None:
    """Called on the event loop of each worker process before it takes its first message.

    An error is logged, and the worker goes on. Child processes for `process=True` tasks do not call
    this hook, so be ready to set up whatever a task needs at the first `fetch_many` too.
    """


@hookspec
def worker_stopped(worker: Worker) -> Awaitable[None] | None:
    """Called on the event loop of each worker process after its last task: close things here.

    Called even if `worker_started` failed. An error is logged.
    """


@hookspec
def fetch_scope(model: str, messages: Sequence[Message]) -> AbstractContextManager[object] | None:
    """Called for each fetch of rows in a worker: a context manager to enter around it.

    Meant for traces. Entered in the asyncio task of the fetch; `messages` are those that wait for
    these rows, all of one `model`.

    Returns:
        `None` if this fetch needs no scope.
    """


@hookspec
def task_scope(
    message: Message, instances: Sequence[object]
) -> AbstractAsyncContextManager[object] | None:
    """Called for each run: an async context manager entered before the task and left after it.

    Entered and left in the task's own asyncio task, so context variables set in it reach the task.
    The task's exceptions pass through it. `instances` are the instances of your models fetched for
    this task; none under `Call.execute()`. Rows with `in_task_scope` options are fetched later.

    Returns:
        `None` if this run needs no scope.
    """


@hookspec
def thread_scope(
    message: Message, instances: Sequence[object]
) -> AbstractContextManager[object] | None:
    """Called for each run of a `def` task, in the thread that runs it, inside `task_scope`.

    `instances` are as for `task_scope`, plus those fetched with `in_task_scope` options. The task's
    exceptions pass through the context manager.
    """


@hookspec
def run_ended(
    message: Message, outcome: str, value: object, error: BaseException | None
) -> Awaitable[None] | None:
    """Called on the event loop after each run, outside its scopes, once its outcome is decided.

    Also called for a call that is not run: cancelled beforehand, delivered too often, or
    unreadable. `outcome` is `succeeded`, `skipped`, `cancelled` or `dead`, which are final, or
    `retried`, `postponed` or `released`. `value` is what a successful task returned, `error` is why
    a call is dead. The value of a task with `process=True` is known only if it is kept
    (`result_ttl`) and holds no model instance. The outcome is sent to the broker after this; an
    error here is logged.
    """


@hookspec
def on_event(event: Event) -> object:
    """Called with each event of `asynctasq.events`, in every process of the application.

    Runs in its own thread, like a function given to `asynctasq.listen`: it delays no task, and its
    errors are logged. This hook makes core create every kind of event, even those that no one else
    wants. If your plugin needs only some of them, or only at times, use `listen` instead.
    """


@hookspec
def metrics_page(has_processes: bool) -> MetricsPage:
    """Called for `asynctasq worker --metrics-port`: return the function that makes `/metrics`.

    Called once, before the worker starts. If it `has_processes`, that is in the parent, before its
    processes start; they inherit its environment. The function is called in a thread for each
    request, with the counts of all queues, or `None` while they are unavailable. It returns the
    page's content type and content.
    """


@hookspec
def message_headers(task: str, queue: str, message_id: str) -> Mapping[str, str] | None:
    """Called at each dispatch, in the dispatching code: headers that travel with the call.

    Called even for a dispatch that waits for a commit, since only here is the caller's trace known.
    Headers given to `with_headers` win.
    """


@hookspec
def is_pending_write(obj: object) -> bool:
    """Called at dispatch for each model instance: has a still open transaction written its row?

    A row that the transaction has only read is not pending: a worker can see it.
    """


@hookspec
def after_commit(obj: object, send: DeferredSend) -> None:
    """Called at dispatch instead of sending: send once the transaction of `obj` has committed.

    `obj` is an instance for which `is_pending_write` was true, or an object given to
    `.on_commit(...)` that `owns_transaction` claimed. Call `send()` from synchronous code (it
    blocks until the broker has the message) or `await send.send_async()`, in the order in which
    this hook was called. Call `send.drop()` if the transaction, or the savepoint in which this hook
    was called, is rolled back. Called once for each pending instance of a call.
    """


@hookspec
def owns_transaction(target: object) -> bool | None:
    """Called for `.on_commit(target)`: is `target` a session, connection or alias of yours?"""


@hookspec
def open_transaction() -> object | None:
    """Called for `.on_commit(True)`: this context's open transaction, for `after_commit`.

    Only for ORMs whose transactions belong to the context (Django, Tortoise). Return `None` if none
    is open.
    """


@hookspec
def databases() -> Iterable[Database]:
    """Called in workers and by commands: the databases that may hold core's tables.

    Core needs them for the outbox and for atomic tasks. Leave out databases whose ORM is not
    initialised.
    """


@hookspec
def own_transaction(database: Database) -> AbstractAsyncContextManager[Run]:
    """Called for a transaction on its own connection, outside the application's sessions.

    The context manager gives a function that runs a `Statement` in the transaction. It commits at
    the end and rolls back on an exception. It may be entered on any of the process's event loops.
    """


@hookspec
def atomic_transaction(
    target: object, refs: Sequence[Ref]
) -> AbstractAsyncContextManager[Transaction]:
    """Called for each run of an atomic task, inside `task_scope`: the transaction it runs in.

    `target` selects the database: `True` for the one of `refs`, the references to your models among
    the task's arguments; or one of your models; or the `name` of one of `databases()`. Entered in
    the task's own asyncio task, before rows are locked for it. Commits at the end, even if
    cancelled meanwhile; rolls back on an exception. The task works in the transaction as if it had
    begun it itself, but cannot commit it.

    Raises:
        ConfigurationError: It is unclear which database is meant, or core's SQL does not suit it.
        ReferenceUnavailable: Raised by the context manager, even in place of the task's own error:
            the database could not answer, or rolled back in favour of another transaction
            (deadlock, serialization failure). The task runs again without using up an attempt.
    """


@hookspec
def check() -> Iterable[Finding] | Awaitable[Iterable[Finding]]:
    """Called by `asynctasq doctor`: are databases reachable, will settings hurt in production?"""


@hookspec
def lazy_names() -> Mapping[str, str]:
    """Called if `asynctasq.<name>` is not one of core's names: yours, as `"module:attribute"`."""


@hookspec
def adapter_suite() -> str:
    """Called by `asynctasq test-adapter`: your `AdapterSuite` subclass, as `"module:Class"`.

    The module ships with the adapter and needs pytest; nothing else in the adapter may import it.
    """


#: Every hook by its name, in the order in which `docs/hooks.md` describes them.
HOOKS: Sequence[str] = [
    name for name, found in tuple(globals().items()) if hasattr(found, "asynctasq_spec")
]

"""The hooks through which an adapter teaches asynctasq an ORM; documented in `docs/hooks.md`.

An adapter is a module (or an object) that implements some of these functions, each marked with
`@asynctasq.hookimpl`, and is named by an entry point of group `asynctasq`. The entry point's name
is the ORM's name on the wire. An implementation may leave out arguments that it does not use.
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
    """A dispatch that waits for a transaction; exactly one of its three ends is used once."""

    def __call__(self) -> None:
        """Send now and block until the broker has the message; usable in any thread."""

    async def send_async(self) -> None:
        """Send now, from a running event loop."""

    def drop(self) -> None:
        """Forget it: the transaction, or the savepoint it belongs to, was rolled back."""


MetricsPage = Callable[["Sequence[QueueStats] | None"], tuple[str, bytes]]


# The bodies are empty, so mypy would want each to return something.
# mypy: disable-error-code="empty-body"


@hookspec
def is_model(obj: object) -> bool | None:
    """Called once for each type met in arguments or references: is it a model of yours?

    Must depend on `type(obj)` alone (in a worker the object is a bare one without state), must not
    import the ORM: while the ORM is not in `sys.modules`, no instance of its models can exist.

    Returns:
        `True` to own the type; `False` or `None` to leave it to others.
    """


@hookspec
def to_ref(obj: object) -> Ref:
    """Called at dispatch for each model instance: the reference that travels in its place.

    Runs no SQL and loads nothing, also for an expired or detached instance.

    Raises:
        UnsavedModelError: The instance has no row yet, by the ORM's own state: a key with a
            default is set long before the insert.
        DeletedModelError: The row was deleted.
    """


@hookspec
def fetch_many(refs: Sequence[Ref]) -> Awaitable[Sequence[object | None]]:
    """Called in the worker with references to rows of ONE model, database and options.

    Runs one query, or as many as the database's limit on parameters needs, without default filters
    of managers, on the database that the references name. `refs[0].model_class()` is the class,
    `refs[0].options` the metadata of the task's annotations. Keys may repeat; each place of the
    result gets an instance of its own, since two tasks never share one.

    Returns:
        The instances in the order asked, `None` where the row is gone.

    Raises:
        ReferenceUnavailable: The database could not answer; the task is retried later without
            using up an attempt.
        AdapterNotReady: The ORM is not initialised; the task gets objects that fetch themselves
            when they are first used.
        InvalidReference: A key that cannot be one of this model; the message is dead-lettered.
    """


@hookspec
def is_outage(error: Exception) -> bool:
    """Called with an error that escaped a task: whether it says that the database is away.

    Only for errors of your ORM and its drivers that may pass by waiting: no connection, a lock that
    was not to be had, a transaction that gave way to another. The run is put off then, for up to
    `outage_for`, without using up an attempt.
    """


@hookspec
def plain_form(obj: object) -> Callable[[Any], object] | None:
    """Called once for each type that could not travel otherwise: how its values become plain ones.

    For a subclass of `str`, `int`, `list`... that only adds behaviour, and for what stands for such
    a value until it is looked at. Like `is_model`, depends on `type(obj)` alone.

    Returns:
        The function that makes the plain value which travels in place of one of this type; `None`
        to leave the type to others.
    """


@hookspec
def option_names() -> Collection[str]:
    """Called by `asynctasq.init`: the option names that are yours, such as `tortoise_config`."""


@hookspec
def configure(options: Mapping[str, Any]) -> None:
    """Called by each `asynctasq.init` with those of your options that were given, maybe none.

    An application that never calls `init` has it called at its first dispatch.

    Raises:
        ConfigurationError: A value that cannot work.
    """


@hookspec
def prepare() -> Iterable[str] | None:
    """Called in each process that runs tasks, before it imports the application's modules.

    The place to set up an ORM that models cannot be imported without (Django). Runs with the
    working directory on `sys.path`, and must bear being called again.

    Returns:
        Names of modules that the worker imports besides those it was given.
    """


@hookspec
def explain_import(error: Exception) -> str | None:
    """Called when a module of the application could not be imported: what the user must do.

    Returns:
        One sentence if the error is of your ORM's making, such as a missing setting.
    """


@hookspec
def queue_names() -> Iterable[str]:
    """Called when a worker is made without a choice of queues: more queues that it is to serve.

    For queues that the framework's own settings declare; those that tasks name are known.
    """


@hookspec
def worker_started(worker: Worker) -> Awaitable[None] | None:
    """Called on the event loop of each worker process before it takes its first message.

    An error is logged, and the worker goes on. Child processes for `process=True` tasks do not call
    it, so what a task needs must be had at the first `fetch_many` as well.
    """


@hookspec
def worker_stopped(worker: Worker) -> Awaitable[None] | None:
    """Called on the event loop of each worker process after its last task: close things.

    Also when `worker_started` failed. An error is logged.
    """


@hookspec
def fetch_scope(model: str, messages: Sequence[Message]) -> AbstractContextManager[object] | None:
    """Called for each fetch of rows in a worker: a context manager entered round it.

    Entered in the asyncio task of the fetch, for traces: `messages` are those that wait for these
    rows, all of one `model`.

    Returns:
        `None` if this fetch needs no scope.
    """


@hookspec
def task_scope(
    message: Message, instances: Sequence[object]
) -> AbstractAsyncContextManager[object] | None:
    """Called for each run: an async context manager entered before the task and left after it.

    Entered and left in the task's own asyncio task, so context variables set in it reach the task.
    An exception of the task passes through it. `instances` are those of your models that were
    fetched for this task, none under `Call.execute()`; what references with `in_task_scope` options
    bring comes later.

    Returns:
        `None` if this run needs no scope.
    """


@hookspec
def thread_scope(
    message: Message, instances: Sequence[object]
) -> AbstractContextManager[object] | None:
    """Called for each run of a `def` task, in the thread that runs it, inside `task_scope`.

    `instances` are as for `task_scope`, with those that `in_task_scope` options have brought. An
    exception of the task passes through the context manager.
    """


@hookspec
def run_ended(
    message: Message, outcome: str, value: object, error: BaseException | None
) -> Awaitable[None] | None:
    """Called on the event loop after each run, outside of its scopes, once its outcome is decided.

    Also for a call that is not run: cancelled before, delivered too often, or not to be read.
    `outcome` is `succeeded`, `skipped`, `cancelled` or `dead`, which are final, or `retried`,
    `postponed` or `released`. `value` is what a task that succeeded has returned, `error` why one
    is dead. A value that a task with `process=True` returned is known if it is kept (`result_ttl`)
    and no model instance is in it. The outcome goes to the broker after this; an error here is
    logged.
    """


@hookspec
def on_event(event: Event) -> object:
    """Called with each event of `asynctasq.events`, in every process of the application.

    In a thread of its own, as a function that `asynctasq.listen` was given: it delays no task, and
    what it raises is logged. With this hook events are made that nobody else may want, so leave it
    out of a plugin that only needs some of them now and then, and `listen` to those.
    """


@hookspec
def metrics_page(has_processes: bool) -> MetricsPage:
    """Called for `asynctasq worker --metrics-port`: what makes the page `/metrics`.

    Called once, before the worker starts, or, if it `has_processes`, in their parent before they
    start; they inherit its environment. The function that it returns is called in a thread
    for each request, with the counts of all queues, or `None` while they cannot be had, and gives
    the page's content type and its content.
    """


@hookspec
def message_headers(task: str, queue: str, message_id: str) -> Mapping[str, str] | None:
    """Called at each dispatch, in the code that dispatches: headers that travel with the call.

    Also for one that waits for a commit: the trace in which it was called is known here alone. What
    `with_headers` gave wins.
    """


@hookspec
def is_pending_write(obj: object) -> bool:
    """Called at dispatch for each model instance: was its row written in a transaction still open?

    A row that the open transaction only read is not pending: a worker can see it.
    """


@hookspec
def after_commit(obj: object, send: DeferredSend) -> None:
    """Called at dispatch instead of sending: send once the transaction of `obj` has committed.

    `obj` is an instance for which `is_pending_write` was true, or what the application gave to
    `.on_commit(...)` and `owns_transaction` claimed. Call `send()` from synchronous code (it
    blocks until the broker has the message) or `await send.send_async()`, in the order of the
    calls of this hook; call `send.drop()` when the transaction, or the savepoint in which this
    hook was called, is rolled back. Called once for each pending instance of a call.
    """


@hookspec
def owns_transaction(target: object) -> bool | None:
    """Called for `.on_commit(target)`: is `target` a session, connection or alias of yours?"""


@hookspec
def open_transaction() -> object | None:
    """Called for `.on_commit(True)`: the transaction open in this context, for `after_commit`.

    Only for ORMs whose transactions belong to the context (Django, Tortoise); `None` when there is
    none.
    """


@hookspec
def databases() -> Iterable[Database]:
    """Called in workers and by commands: the databases that may hold the tables of core.

    For the outbox and for atomic tasks; those whose ORM is not initialised are left out.
    """


@hookspec
def own_transaction(database: Database) -> AbstractAsyncContextManager[Run]:
    """Called for a transaction on a connection of its own, in no session of the application.

    Gives a function that runs a `Statement` in it. Commits at the end, rolls back on an exception.
    Entered on any event loop of the process.
    """


@hookspec
def atomic_transaction(
    target: object, refs: Sequence[Ref]
) -> AbstractAsyncContextManager[Transaction]:
    """Called for each run of an atomic task, inside `task_scope`: the transaction that it runs in.

    `target` says in which database: `True`, in that of `refs`, the references to your models among
    the task's arguments; or a model of yours; or the `name` of one of `databases()`. Entered before
    rows are locked for the task, in the task's own asyncio task. Commits at the end, even if it is
    cancelled meanwhile; rolls back on an exception. The task works in it as if it had begun it
    itself, but cannot commit it.

    Raises:
        ConfigurationError: It is not clear which database is meant, or core's SQL does not fit it.
        ReferenceUnavailable: By the context manager, also in place of an error of the task: the
            database could not answer, or gave way to another transaction (deadlock, serialization
            failure), so that the task is to be run again without using up an attempt.
    """


@hookspec
def check() -> Iterable[Finding] | Awaitable[Iterable[Finding]]:
    """Called by `asynctasq doctor`: databases reachable, settings that will hurt in production."""


@hookspec
def lazy_names() -> Mapping[str, str]:
    """Called when `asynctasq.<name>` is not a name of core: your names, as `"module:attribute"`."""


@hookspec
def adapter_suite() -> str:
    """Called by `asynctasq test-adapter`: your `AdapterSuite` subclass, as `"module:Class"`.

    The module comes with the adapter and needs pytest; nothing else of the adapter imports it.
    """


#: Every hook by its name, in the order in which `docs/hooks.md` describes them.
HOOKS: Sequence[str] = [
    name for name, found in tuple(globals().items()) if hasattr(found, "asynctasq_spec")
]

"""Background tasks whose arguments are ORM objects: a reference travels, a fresh row arrives."""

from typing import Any

from .adapters.hookspecs import DeferredSend, hookimpl, hookspec
from .adapters.statements import Database, Run, Statement
from .app import dispatch_many, dispatch_many_sync, init, load_config
from .brokers import Finding, QueueStats
from .brokers.redis.config import RedisConfig
from .brokers.sqlite.config import SQLiteConfig
from .config import Config
from .errors import (
    AdapterNotReady,
    AsynctasqError,
    BadSignature,
    BrokenModule,
    BrokerError,
    BrokerUnavailable,
    ConfigurationError,
    DeletedModelError,
    DispatchDropped,
    InvalidMessage,
    InvalidReference,
    MessageError,
    PayloadTooLarge,
    PluginError,
    ReferenceGone,
    ReferenceUnavailable,
    RemoteTraceback,
    ResultError,
    ResultNotKept,
    ResultTimeout,
    Retry,
    SerializationError,
    TaskCancelled,
    TaskCrashed,
    TaskFailed,
    TaskTimeout,
    UnknownTask,
    UnsavedModelError,
    UnsupportedVersion,
)
from .events import listen, unlisten
from .sending.commits import DeferredSends, send_together, send_together_async
from .sending.handle import TaskHandle, TaskStatus
from .supervision.run import run_worker
from .tasks.annotations import OnMissing
from .tasks.call import Call
from .tasks.class_based import AsyncTask, SyncTask
from .tasks.current import runs_for_caller
from .tasks.options import TaskConfig
from .tasks.task import Task, task
from .wire.class_paths import alias_model, class_path
from .wire.encoding import register_type
from .wire.message import Message
from .wire.reference import Ref
from .worker.execution import current_message
from .worker.worker import Worker

__all__ = [
    "AdapterNotReady",
    "AsyncTask",
    "AsynctasqError",
    "BadSignature",
    "BrokenModule",
    "BrokerError",
    "BrokerUnavailable",
    "Call",
    "Config",
    "ConfigurationError",
    "Database",
    "DeferredSend",
    "DeferredSends",
    "DeletedModelError",
    "DispatchDropped",
    "Finding",
    "InvalidMessage",
    "InvalidReference",
    "Message",
    "MessageError",
    "OnMissing",
    "PayloadTooLarge",
    "PluginError",
    "QueueStats",
    "RedisConfig",
    "Ref",
    "ReferenceGone",
    "ReferenceUnavailable",
    "RemoteTraceback",
    "ResultError",
    "ResultNotKept",
    "ResultTimeout",
    "Retry",
    "Run",
    "SQLiteConfig",
    "SerializationError",
    "Statement",
    "SyncTask",
    "Task",
    "TaskCancelled",
    "TaskConfig",
    "TaskCrashed",
    "TaskFailed",
    "TaskHandle",
    "TaskStatus",
    "TaskTimeout",
    "UnknownTask",
    "UnsavedModelError",
    "UnsupportedVersion",
    "Worker",
    "alias_model",
    "class_path",
    "current_message",
    "dispatch_many",
    "dispatch_many_sync",
    "hookimpl",
    "hookspec",
    "init",
    "listen",
    "load_config",
    "register_type",
    "run_worker",
    "runs_for_caller",
    "send_together",
    "send_together_async",
    "task",
    "unlisten",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """What an installed adapter offers under a name of its own."""
    if name.startswith("_"):
        raise AttributeError(f"module 'asynctasq' has no attribute {name!r}")
    from .adapters.plugins import installed

    return installed().lazy_name(name)

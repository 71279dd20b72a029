"""Background tasks whose arguments are ORM objects: a reference travels, a fresh row arrives."""

from typing import Any

from .app import dispatch_many, init, load_config, send_together
from .brokers import Finding
from .classes import AsyncTask, SyncTask
from .config import Config, RedisConfig, SQLiteConfig, TaskConfig
from .dispatching import DeferredSend, send_together_async
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
from .execution import current_message
from .handle import TaskHandle, TaskStatus
from .hints import OnMissing
from .hookspecs import hookimpl, hookspec
from .message import Message
from .models import alias_model, class_path
from .references import Ref
from .run import run_worker
from .serializer import register_type
from .task import Call, Task, task
from .worker import Worker

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
    "DeferredSend",
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
    "RedisConfig",
    "Ref",
    "ReferenceGone",
    "ReferenceUnavailable",
    "RemoteTraceback",
    "ResultError",
    "ResultNotKept",
    "ResultTimeout",
    "Retry",
    "SQLiteConfig",
    "SerializationError",
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
    "hookimpl",
    "hookspec",
    "init",
    "load_config",
    "register_type",
    "run_worker",
    "send_together",
    "send_together_async",
    "task",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """What an installed adapter offers under a name of its own."""
    if name.startswith("_"):
        raise AttributeError(f"module 'asynctasq' has no attribute {name!r}")
    from .plugins import installed

    return installed().lazy_name(name)

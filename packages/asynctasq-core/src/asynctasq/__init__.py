"""Background tasks whose arguments are ORM objects: a reference travels, a fresh row arrives."""

from typing import Any

from .adapters.hookspecs import DeferredSend, hookimpl, hookspec
from .adapters.loop_end import at_loop_end
from .adapters.shielding import uninterrupted
from .adapters.statements import Database, Run, Statement, Transaction
from .app import dispatch_many, dispatch_many_sync, init, load_config
from .batching import Batch, BatchHandle
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
    ChainStopped,
    ConfigurationError,
    DeletedModelError,
    DispatchDropped,
    DuplicateCall,
    InvalidMessage,
    InvalidReference,
    MessageError,
    NotYetKnown,
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
    Snooze,
    Stopped,
    TaskCancelled,
    TaskCrashed,
    TaskFailed,
    TaskTimeout,
    UnknownArguments,
    UnknownModel,
    UnknownTask,
    UnsavedModelError,
    UnsupportedVersion,
)
from .events import listen, unlisten
from .listing import calls, calls_sync, cancel_calls, cancel_calls_sync
from .pausing import Pause, pause, pause_sync, pauses, pauses_sync, resume, resume_sync
from .scheduling import (
    Schedule,
    schedule,
    schedule_sync,
    schedules,
    schedules_sync,
    unschedule,
    unschedule_sync,
)
from .sending.deferred import send_together, send_together_async
from .sending.handle import TaskHandle
from .sending.held_back import DeferredSends
from .sending.listing import CallInfo, CallPage
from .sending.progress import Progress
from .sending.status import TaskStatus
from .supervision.lifespan import lifespan
from .supervision.run import run_worker
from .tasks.annotations import OnMissing
from .tasks.call import Call
from .tasks.class_based import AsyncTask, SyncTask
from .tasks.current import current_message, runs_for_caller
from .tasks.log_filter import TaskLogFilter
from .tasks.options import TaskConfig
from .tasks.policies import Limit, Rate, Unique
from .tasks.schedule import Cron, Every
from .tasks.task import Task, task
from .wire.class_paths import alias_model, class_path
from .wire.encoding import register_type
from .wire.message import Message
from .wire.plain_values import PLAIN_TYPES, plain_value
from .wire.reference import Ref
from .worker.checkpoints import checkpoint, checkpoint_sync, is_stopping, resumable
from .worker.progress import progress, progress_sync
from .worker.worker import Worker

__all__ = [
    "PLAIN_TYPES",
    "AdapterNotReady",
    "AsyncTask",
    "AsynctasqError",
    "BadSignature",
    "Batch",
    "BatchHandle",
    "BrokenModule",
    "BrokerError",
    "BrokerUnavailable",
    "Call",
    "CallInfo",
    "CallPage",
    "ChainStopped",
    "Config",
    "ConfigurationError",
    "Cron",
    "Database",
    "DeferredSend",
    "DeferredSends",
    "DeletedModelError",
    "DispatchDropped",
    "DuplicateCall",
    "Every",
    "Finding",
    "InvalidMessage",
    "InvalidReference",
    "Limit",
    "Message",
    "MessageError",
    "NotYetKnown",
    "OnMissing",
    "Pause",
    "PayloadTooLarge",
    "PluginError",
    "Progress",
    "QueueStats",
    "Rate",
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
    "Schedule",
    "SerializationError",
    "Snooze",
    "Statement",
    "Stopped",
    "SyncTask",
    "Task",
    "TaskCancelled",
    "TaskConfig",
    "TaskCrashed",
    "TaskFailed",
    "TaskHandle",
    "TaskLogFilter",
    "TaskStatus",
    "TaskTimeout",
    "Transaction",
    "Unique",
    "UnknownArguments",
    "UnknownModel",
    "UnknownTask",
    "UnsavedModelError",
    "UnsupportedVersion",
    "Worker",
    "alias_model",
    "at_loop_end",
    "calls",
    "calls_sync",
    "cancel_calls",
    "cancel_calls_sync",
    "checkpoint",
    "checkpoint_sync",
    "class_path",
    "current_message",
    "dispatch_many",
    "dispatch_many_sync",
    "hookimpl",
    "hookspec",
    "init",
    "is_stopping",
    "lifespan",
    "listen",
    "load_config",
    "pause",
    "pause_sync",
    "pauses",
    "pauses_sync",
    "plain_value",
    "progress",
    "progress_sync",
    "register_type",
    "resumable",
    "resume",
    "resume_sync",
    "run_worker",
    "runs_for_caller",
    "schedule",
    "schedule_sync",
    "schedules",
    "schedules_sync",
    "send_together",
    "send_together_async",
    "task",
    "uninterrupted",
    "unlisten",
    "unschedule",
    "unschedule_sync",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """What an installed adapter offers under a name of its own."""
    if name.startswith("_"):
        raise AttributeError(f"module 'asynctasq' has no attribute {name!r}")
    from .adapters.plugins import installed

    return installed().lazy_name(name)

"""Background tasks whose arguments are ORM objects: a reference travels, a fresh row arrives."""

from .brokers import Finding
from .config import Config, RedisConfig, SQLiteConfig, TaskConfig
from .dispatching import DeferredSend
from .errors import (
    AdapterNotReady,
    AsynctasqError,
    BadSignature,
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
from .hookspecs import hookimpl, hookspec
from .models import alias_model, class_path
from .references import Ref

__version__ = "0.1.0"

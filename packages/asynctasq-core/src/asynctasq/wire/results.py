"""The stored outcome of a run: its value, its error, or that it was cancelled.

Owns the rule that reading a result runs nothing it names: an error comes back as its own class only
if that class is loaded here and can be built without running any of its code.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import BuiltinFunctionType, MappingProxyType, WrapperDescriptorType
from typing import Any

import msgpack

from ..errors import (
    BadSignature,
    MessageError,
    PayloadTooLarge,
    RemoteTraceback,
    SerializationError,
    TaskFailed,
)
from .class_paths import class_in, static_dict
from .decoding import collect_references, decode_value, holds_references
from .encoding import Owner, PlainForm, encode_value
from .message import RESULT, sign, verify
from .reference import Ref

Keys = Sequence[bytes]

#: Longest error text kept beside the error's arguments, in characters.
_MOST_CHARACTERS = 20_000


def encode_result(
    value: object,
    type_names: Mapping[type, str],
    owner_of: Callable[[object], Owner | None],
    plain_form: PlainForm,
    keys: Keys,
    message_id: str,
    max_bytes: int,
) -> bytes:
    """The stored form of what a task returned; model instances travel as references.

    Args:
        type_names: The names on the wire of the classes in the task's annotations.
        plain_form: How adapters make their framework's own types plain.
        max_bytes: Largest result that is kept.

    Raises:
        SerializationError: The value cannot travel, or it is too large.
    """
    encoded = encode_value(value, "result", owner_of, type_names, plain_form)
    sealed = _sealed({"value": encoded}, keys, message_id)
    if len(sealed) > max_bytes:
        raise PayloadTooLarge(
            f"{len(sealed)} bytes encoded, more than max_payload_bytes ({max_bytes})", "result"
        )
    return sealed


def encode_error(
    error: BaseException,
    traceback: str,
    plain_form: PlainForm,
    keys: Keys,
    message_id: str,
    max_bytes: int,
    headers: Mapping[str, str] = MappingProxyType({}),
    attempts: int = 0,
) -> bytes:
    """The stored form of the error that ended a task, with its message's headers and attempts.

    An error that is too large is kept without its arguments.
    """
    try:
        text = str(error)[:_MOST_CHARACTERS]
    except Exception:  # noqa: BLE001 - the application's `__str__`
        text = ""
    content: dict[str, Any] = {
        "error": f"{type(error).__module__}:{type(error).__qualname__}",
        "args": _encoded(list(error.args), plain_form),
        "state": _encoded(dict(vars(error)), plain_form),
        "text": text,
        "traceback": traceback,
    }
    if headers:
        content["headers"] = dict(headers)
    if attempts:
        content["attempts"] = attempts
    sealed = _sealed(content, keys, message_id)
    if len(sealed) > max_bytes:
        return _sealed({**content, "args": None, "state": None}, keys, message_id)
    return sealed


def encode_end(is_dead: bool, keys: Keys, message_id: str) -> bytes:
    """The stored form of how a call ended, if it keeps no result."""
    return _sealed({"ended": "dead" if is_dead else "done"}, keys, message_id)


def encode_cancelled(keys: Keys, message_id: str) -> bytes:
    """The stored form of a call that was cancelled."""
    return _sealed({"cancelled": True}, keys, message_id)


def encode_checkpoint(
    value: object, plain_form: PlainForm, keys: Keys, message_id: str, max_bytes: int
) -> bytes:
    """The stored form of a checkpoint, which a run leaves for the next one.

    Raises:
        SerializationError: The value cannot travel, or it is too large.
    """
    encoded = encode_value(value, "checkpoint", lambda _: None, {}, plain_form)
    sealed = _sealed({"checkpoint": encoded}, keys, message_id)
    if len(sealed) > max_bytes:
        text = f"{len(sealed)} bytes encoded, more than a checkpoint may have ({max_bytes})"
        raise PayloadTooLarge(text, "checkpoint")
    return sealed


def decode_checkpoint(stored: bytes, keys: Keys, message_id: str) -> Any:
    """The checkpoint that a run has left.

    Raises:
        BadSignature: It was not signed for this call.
        TaskFailed: It is damaged.
    """
    content = read_result(stored, keys, message_id, message_id)
    return decode_stored(content.get("checkpoint", b"\xc0"), {}, message_id)


def _encoded(value: object, plain_form: PlainForm) -> bytes | None:
    """A part of an error, encoded; `None` if it cannot travel."""
    try:
        return encode_value(value, "error", lambda _: None, {}, plain_form)
    except SerializationError:
        return None


def _sealed(content: dict[str, Any], keys: Keys, message_id: str) -> bytes:
    """The content as bytes; if signed, it names its message, so that it cannot pass for another."""
    if keys:
        content["id"] = message_id
    return sign(msgpack.packb(content, unicode_errors="backslashreplace"), keys, RESULT)


def read_result(stored: bytes, keys: Keys, message_id: str, call: str) -> dict[str, Any]:
    """What is stored: `value`, still encoded; `cancelled`; `ended`; or what `error_in` reads.

    Args:
        call: Task and id, for error messages.

    Raises:
        BadSignature: It is unsigned, or was signed for another call.
        TaskFailed: It is damaged.
    """
    content = decode_stored(verify(stored, keys, RESULT), {}, call)
    if not isinstance(content, dict):
        raise TaskFailed(f"{call}: the stored result is damaged")
    if keys and content.get("id") != message_id:
        raise BadSignature(f"{call}: the stored result is another call's")
    return content


def decode_stored(
    stored: Any, types: Mapping[str, type], call: str, instances: Sequence[object] = ()
) -> Any:
    """The value of a stored result, with references replaced by `instances`.

    Raises:
        TaskFailed: It is damaged.
    """
    try:
        return decode_value(stored, types, instances)
    except MessageError as e:
        raise TaskFailed(f"{call}: the stored result is damaged: {e}") from None


def references_in(stored: Any, call: str) -> list[Ref]:
    """The references in the value of a stored result, in the order they appear.

    Raises:
        TaskFailed: It is damaged.
    """
    if type(stored) is not bytes or not holds_references(stored):
        return []
    try:
        arguments = collect_references(b"\x92\x91" + stored + b"\x80")  # as a call's only argument
    except MessageError as e:
        raise TaskFailed(f"{call}: the stored result is damaged: {e}") from None
    return [ref for _, refs in arguments for ref in refs]


def error_in(content: dict[str, Any]) -> BaseException:
    """The error, as its own class if that can be built without running anyone's code.

    Its `__cause__` shows the worker's traceback.
    """
    name, text = str(content.get("error", "?")), str(content.get("text", ""))
    cls = _loaded_error_class(name)
    error: BaseException
    error = TaskFailed(f"{name.replace(':', '.').removeprefix('builtins.')}: {text}")
    if cls is not None and content.get("args") is not None:
        args = decode_value(content["args"], {})
        with suppress(Exception):  # a built-in class that refuses these arguments
            error = _made(cls, args)
            if content.get("state") is not None:
                vars(error).update(decode_value(content["state"], {}))
    headers, attempts = content.get("headers"), content.get("attempts")
    error.__cause__ = RemoteTraceback(
        str(content.get("traceback", "")),
        headers if isinstance(headers, dict) else {},
        attempts if isinstance(attempts, int) else 0,
    )
    return error


def _made(cls: type[Exception], args: list[Any]) -> Exception:
    if isinstance(cls.__init__, WrapperDescriptorType):
        return cls(*args)  # only built-in code runs; `OSError` sets its attributes this way
    error = cls.__new__(cls)
    error.args = tuple(args)
    return error


def _loaded_error_class(name: str) -> type[Exception] | None:
    """The exception class of this name, if it is loaded and safe to build."""
    module, _, path = name.partition(":")
    found = class_in(static_dict(sys.modules.get(module)), path.split("."))
    if found is None or not issubclass(found, Exception):
        return None
    if issubclass(found, StopIteration | StopAsyncIteration):  # no coroutine can raise them
        return None
    # A `__new__` written in Python would be someone's code; `__init__` is never called.
    return found if isinstance(found.__new__, BuiltinFunctionType) else None

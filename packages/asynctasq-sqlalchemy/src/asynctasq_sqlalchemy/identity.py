"""Finds out which row an instance stands for, and whether it exists, without any SQL.

Reads the identity that SQLAlchemy keeps beside an instance, not its attributes: reading expired
ones would load them, and their names may differ from the columns'.
"""

from __future__ import annotations

from typing import Any

from asynctasq import DeletedModelError, Ref, UnsavedModelError, class_path
from sqlalchemy.orm import InstanceState
from sqlalchemy.orm.attributes import instance_state

from .commits import was_inserted
from .keys import Identity, key_of


def to_ref(obj: object) -> Ref:
    """The reference of a row that exists, whether committed or only inserted.

    Raises:
        UnsavedModelError: The instance was never flushed, or its insert was rolled back.
        DeletedModelError: The row was deleted, or is about to be in this session.
        SerializationError: Its key cannot travel.
    """
    state: InstanceState[Any] = instance_state(obj)
    name = type(obj).__qualname__
    if state.was_deleted or (state.session is not None and obj in state.session.deleted):
        raise DeletedModelError(f"this {name} was deleted; there is no row to refer to")
    identity = state.identity
    if identity is None and was_inserted(state):
        identity = tuple(state.mapper.primary_key_from_instance(obj))
    if identity is None:
        raise UnsavedModelError(
            f"this {name} has no row yet: add it to a session and flush or commit it first"
        )
    key = key_of(state.mapper).sent(identity)
    shard = state.identity_token
    return Ref(
        model=class_path(type(obj)),
        pk=key[0] if len(key) == 1 else key,
        db=None if shard is None else str(shard),
    )


def sent_key(row: object) -> Identity:
    """The key that travels for a loaded row."""
    state: InstanceState[Any] = instance_state(row)
    assert state.identity is not None
    return key_of(state.mapper).sent(state.identity)

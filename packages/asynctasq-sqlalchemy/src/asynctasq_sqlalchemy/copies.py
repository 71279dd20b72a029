"""Copies a row for several tasks, and merges several rows into one task's session.

Two tasks share nothing: no instance, no related instance, no mutable value in a column. Within one
task a row is a single instance, however it was loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from typing import Any

from sqlalchemy.orm import RelationshipProperty, Session
from sqlalchemy.orm.attributes import instance_state, set_committed_value
from sqlalchemy.orm.collections import collection_adapter


def is_linked(row: object) -> bool:
    """Whether related instances were loaded along with the row."""
    relationships = instance_state(row).mapper.relationships
    return bool(relationships) and any(vars(row).get(r.key) for r in relationships)


def copy_of(row: object) -> object:
    """A detached copy of a detached row and the instances loaded with it, without SQL."""
    state = instance_state(row)
    _unshare(row)
    for related, *_ in state.mapper.cascade_iterator("merge", state):
        _unshare(related)
    session = Session()
    copy = session.merge(row, load=False)
    for relationship in state.mapper.relationships:
        if "merge" not in relationship.cascade and vars(row).get(relationship.key):
            related = [session.merge(r, load=False) for r in _related(row, relationship)]
            _set(copy, relationship, related)
    session.expunge_all()
    return copy


def _unshare(row: object) -> None:
    """Give the row its own mutable values; unhashable values count as mutable."""
    values = vars(row)
    for attribute in instance_state(row).mapper.column_attrs:
        value = values.get(attribute.key)
        if value is not None and type(value).__hash__ is None:
            values[attribute.key] = deepcopy(value)


def attach(session: Session, instances: Iterable[object]) -> None:
    """Add detached instances and those loaded with them, each row only once."""
    present = {instance_state(i).key: i for i in instances if instance_state(i).session is None}
    stack = list(present.values())
    while stack:
        stack.extend(_woven(stack.pop(), present))
    session.add_all(present.values())


def _woven(row: object, present: dict[Any, object]) -> Iterator[object]:
    """Point the row at instances already present, and yield the related ones to do next."""
    for relationship in instance_state(row).mapper.relationships:
        if not vars(row).get(relationship.key):
            continue
        chosen = []
        for other in _related(row, relationship):
            key = instance_state(other).key
            is_new = key not in present
            chosen.append(one := present.setdefault(key, other))
            if is_new or (one is not other and _complete(one, other)):
                yield one
        _set(row, relationship, chosen)


def _complete(row: object, other: object) -> bool:
    """Give a row what only the other instance of it has loaded; return whether there was any."""
    missing = vars(other).keys() - vars(row).keys()
    for relationship in instance_state(row).mapper.relationships:
        if relationship.key in missing and vars(other)[relationship.key]:
            _set(row, relationship, _related(other, relationship))
    for column in instance_state(row).mapper.column_attrs:
        if column.key in missing:
            set_committed_value(row, column.key, vars(other)[column.key])
    return bool(missing)


def _related(row: object, relationship: RelationshipProperty[Any]) -> list[Any]:
    value = vars(row)[relationship.key]
    return list(collection_adapter(value)) if relationship.uselist else [value]


def _set(row: object, relationship: RelationshipProperty[Any], related: Sequence[object]) -> None:
    set_committed_value(row, relationship.key, related if relationship.uselist else related[0])

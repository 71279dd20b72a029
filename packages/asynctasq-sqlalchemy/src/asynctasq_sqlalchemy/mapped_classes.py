"""Knows every mapped class of the process, whichever base or registry it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakSet

from sqlalchemy import event
from sqlalchemy.orm import ClassManager, Mapper
from sqlalchemy.orm.base import DEFAULT_MANAGER_ATTR

_mapped: WeakSet[type] = WeakSet()


def watch() -> None:
    """Remember every class mapped from now on, and those mapped already."""
    event.listen(Mapper, "instrument_class", lambda mapper, cls: _mapped.add(cls))
    _find_mapped(object, {id(type)})


def _find_mapped(cls: type, seen: set[int]) -> None:
    children: list[type] = type.__subclasses__(cls)
    for child in children:
        # By identity: metaclasses may define `==`; since Python 3.14 one in `typing` warns.
        if id(child) not in seen:
            seen.add(id(child))
            if is_mapped(child):
                _mapped.add(child)
            _find_mapped(child, seen)


def mapped_classes() -> list[type]:
    """Every mapped class that is still alive."""
    return list(_mapped)


def is_mapped(cls: type) -> bool:
    """Whether SQLAlchemy maps the class itself; an unmapped subclass of a model does not count.

    Messages name classes, so this runs no code of the class or its metaclass.
    """
    manager: Any = _DICT_OF_CLASS(cls).get(DEFAULT_MANAGER_ATTR)
    return issubclass(type(manager), ClassManager) and manager.is_mapped


#: Bypasses metaclasses that redefine `__dict__`.
_DICT_OF_CLASS: Callable[[type], Mapping[str, Any]] = type.__dict__["__dict__"].__get__

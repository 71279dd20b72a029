"""Every mapped class of the process, whichever base or registry it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakSet

from sqlalchemy import event
from sqlalchemy.orm import ClassManager, Mapper
from sqlalchemy.orm.base import DEFAULT_MANAGER_ATTR

_mapped: WeakSet[type] = WeakSet()


def watch() -> None:
    """Remember every class that is mapped from now on, and those mapped already."""
    event.listen(Mapper, "instrument_class", lambda mapper, cls: _mapped.add(cls))
    _find_mapped(object, {id(type)})


def _find_mapped(cls: type, seen: set[int]) -> None:
    children: list[type] = type.__subclasses__(cls)
    for child in children:
        # By identity: a metaclass may compare as it likes. One of `typing` warns since Python 3.14.
        if id(child) not in seen:
            seen.add(id(child))
            if is_mapped(child):
                _mapped.add(child)
            _find_mapped(child, seen)


def mapped_classes() -> list[type]:
    """Every mapped class that is alive."""
    return list(_mapped)


def is_mapped(cls: type) -> bool:
    """Whether SQLAlchemy maps the class itself; an unmapped subclass of a model is none.

    Whoever names a class in a message gets none of its code run by this, nor its metaclass's.
    """
    manager: Any = _DICT_OF_CLASS(cls).get(DEFAULT_MANAGER_ATTR)
    return issubclass(type(manager), ClassManager) and manager.is_mapped


#: A metaclass may say otherwise what the `__dict__` of its classes is.
_DICT_OF_CLASS: Callable[[type], Mapping[str, Any]] = type.__dict__["__dict__"].__get__

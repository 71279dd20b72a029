"""Every mapped class of the process, whichever base or registry it belongs to."""

from __future__ import annotations

from weakref import WeakSet

from sqlalchemy import event, inspect
from sqlalchemy.orm import Mapper
from sqlalchemy.orm.base import opt_manager_of_class

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
            # `inspect` would configure mappers whose related classes are still to be imported.
            if opt_manager_of_class(child) is not None:
                _mapped.add(child)
            _find_mapped(child, seen)


def mapped_classes() -> list[type]:
    """Every mapped class that is alive."""
    return list(_mapped)


def is_mapped(cls: type) -> bool:
    """Whether SQLAlchemy maps the class itself; an unmapped subclass of a model is none."""
    return isinstance(inspect(cls, raiseerr=False), Mapper)

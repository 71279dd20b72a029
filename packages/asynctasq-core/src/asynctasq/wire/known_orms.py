"""The ORMs we ship adapters for; used only for advice in errors.

Models are recognised by name, so that no ORM is imported here.
"""

from __future__ import annotations

#: Base classes of each ORM's models, by module and name.
_SIGNS = {
    ("django.db.models.base", "Model"): "Django",
    ("tortoise.models", "Model"): "Tortoise",
}


def advice(cls: type) -> str:
    """Which distribution makes the class's instances travel; empty if its ORM is not known."""
    bases = type.mro(cls)
    found = [_SIGNS.get((base.__module__, base.__qualname__)) for base in bases]
    if any("_sa_class_manager" in vars(base) for base in bases):
        found.append("SQLAlchemy")
    name = next(filter(None, found), None)
    if name is None:
        return ""
    return (
        f"it is a model of {name}: install asynctasq-{name.lower()}, or see `asynctasq plugins` "
        f"for why it did not load"
    )

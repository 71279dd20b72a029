"""ORMs that have an adapter of ours, for the advice in an error only.

Whether a class is one of their models is seen by names: none of them is imported here.
"""

from __future__ import annotations

#: What stands in the class, or in one that it inherits from.
_SIGNS = {
    ("django.db.models.base", "Model"): "Django",
    ("tortoise.models", "Model"): "Tortoise",
}


def advice(cls: type) -> str:
    """Which distribution its instances travel with; empty for a class of no known ORM."""
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

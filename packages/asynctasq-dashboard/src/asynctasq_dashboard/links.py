"""Links from arguments to the application's own pages for their rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import quote

from asynctasq import class_path
from asynctasq.deadletters import Reference

#: A pattern such as `/admin/orders/{key}`, or a function from the key to an address or `None`.
Link = str | Callable[[str], str | None]


class Links:
    """Where people can look at the rows of models.

    Args:
        by_model: Links by the model's class, or its path such as `shop.models.Order`.
    """

    def __init__(self, by_model: Mapping[str | type, Link]) -> None:
        self._links = {
            model if isinstance(model, str) else class_path(model): link
            for model, link in by_model.items()
        }

    def address(self, reference: Reference) -> str | None:
        """The address of the row's page; `None` if there is none.

        The key comes from a message. In a pattern it is quoted, so that it stays one part of the
        path; the result of a function is refused unless it is a path or an http(s) address.
        """
        link = self._links.get(reference.model)
        if link is None:
            return None
        if isinstance(link, str):
            found: str | None = link.replace("{key}", quote(reference.key, safe=""))
        else:
            found = link(reference.key)
        is_safe = found is not None and (
            found.startswith(("http://", "https://"))
            or (found.startswith("/") and not found.startswith(("//", "/\\")))
        )
        return found if is_safe else None

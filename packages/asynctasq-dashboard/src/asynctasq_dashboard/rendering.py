"""Pages from templates, in which nothing is taken for HTML that a template does not say."""

from __future__ import annotations

from functools import cache
from time import time
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from .text import duration, machine, mark, moment, number


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("asynctasq_dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "number": number,
        "duration": duration,
        "moment": moment,
        "machine": machine,
        "mark": mark,
        "ago": lambda seconds: duration(max(0.0, time() - seconds)),
    }
    return made


def whole_page(template: str, context: dict[str, Any]) -> bytes:
    """The whole page."""
    return _bytes(_environment().get_template(template).render(context))


def live_part(template: str, context: dict[str, Any]) -> str:
    """The part of the page that is sent again when it changes."""
    found = _environment().get_template(template)
    return "".join(found.blocks["live"](found.new_context(context)))


def _bytes(content: str) -> bytes:
    # What comes from messages may hold halves of characters.
    return content.encode("utf-8", "backslashreplace")

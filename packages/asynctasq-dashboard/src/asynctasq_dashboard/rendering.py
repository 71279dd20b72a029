"""Renders pages from templates, escaping everything that is not part of a template."""

from __future__ import annotations

from functools import cache
from glob import escape
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
        "pattern": escape,  # makes a pattern that matches only this task's name
        "ago": lambda seconds: duration(max(0.0, time() - seconds)),
    }
    return made


def whole_page(template: str, context: dict[str, Any]) -> bytes:
    """The whole page."""
    return _bytes(_environment().get_template(template).render(context))


def live_part(template: str, context: dict[str, Any]) -> str:
    """The part of the page that is sent again whenever it changes."""
    found = _environment().get_template(template)
    return "".join(found.blocks["live"](found.new_context(context)))


def _bytes(content: str) -> bytes:
    # Text from messages may contain lone surrogates.
    return content.encode("utf-8", "backslashreplace")

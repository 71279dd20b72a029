"""One request to a page: what it asks for, and what its sender may do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, parse_qsl, urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request

from .links import Links
from .work import Works

#: Maximum length of a parameter in characters, and of a form in bytes.
_LONGEST, _FORM_BYTES = 500, 200_000


@dataclass(frozen=True, slots=True)
class View:
    """What pages are made from.

    Attributes:
        base: The start of this dashboard's addresses.
        may_act: Whether to show buttons.
        token: The token that a form must send.
        form: The form that a POST sent.
    """

    request: Request
    base: str
    may_act: bool
    token: str
    links: Links
    works: Works
    form: Mapping[str, list[str]] = field(default_factory=dict)

    def parameter(self, name: str) -> str:
        """A parameter of the query; empty if it is missing."""
        return _text(self.request.query_params.get(name, "")).strip()

    def chosen(self, *names: str) -> dict[str, str]:
        """Those of these parameters that are not empty."""
        return {name: value for name in names if (value := self.parameter(name))}

    def offset(self) -> int:
        """How many lines to skip."""
        text = self.parameter("offset")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0

    def sent(self, name: str) -> str:
        """A field of the form; empty if it is missing."""
        return _text(self.form.get(name, [""])[0])

    def back(self, **parameters: object) -> str:
        """The page that a form came from if it is one of this dashboard; otherwise the first."""
        found = self.sent("back")
        is_ours = found.startswith(f"{self.base}/") and not found.startswith(("//", "/\\"))
        path, _, query = (found if is_ours else f"{self.base}/").partition("?")
        kept = [(k, v) for k, v in parse_qsl(query) if k not in ("said", "n", "live")]
        kept += [(k, str(v)) for k, v in parameters.items()]
        return path + ("?" + urlencode(kept, errors="surrogatepass") if kept else "")

    def address(self, path: str, **parameters: object) -> str:
        """The address of a page of this dashboard."""
        given = {k: v for k, v in parameters.items() if v not in ("", None)}
        query = urlencode(given, errors="surrogatepass") if given else ""
        return f"{self.base}{path}{'?' + query if query else ''}"


def _text(sent: str) -> str:
    """Bounded, and without the one character that PostgreSQL takes in no text."""
    return sent[:_LONGEST].replace("\0", "")


async def form_of(request: Request) -> dict[str, list[str]]:
    """What a form sent, by field.

    Raises:
        HTTPException: It is not a form, or larger than any that this dashboard makes.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise HTTPException(415)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _FORM_BYTES:
            raise HTTPException(413)
    try:
        return parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=2000)
    except ValueError as e:
        raise HTTPException(400) from e

"""Pages of the documentation as programs: blocks that name a file are parts of that file."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        file: Where it belongs; empty for one that stands alone.
    """

    language: str
    file: str
    code: str


@dataclass(frozen=True)
class Page:
    """One page."""

    text: str

    @property
    def blocks(self) -> list[Block]:
        """Its code, in order."""
        return [Block(*match.groups(default="")) for match in _BLOCK.finditer(self.text)]

    def files(self) -> dict[str, str]:
        """The files that its blocks make up, by name."""
        parts: dict[str, list[str]] = {}
        for block in self.blocks:
            if block.file:
                parts.setdefault(block.file, []).append(block.code)
        return {file: "\n\n".join(codes) for file, codes in parts.items()}


@pytest.fixture(scope="session")
def page() -> Callable[[str], Page]:
    """A page of `docs/` by its name."""
    return lambda name: Page((ROOT / "docs" / name).read_text())


def install(folder: Path, name: str, version: str, entry_points: dict[str, str]) -> None:
    """Make a distribution of what lies in a folder, as an installer leaves it there."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [f"{key} = {value}\n" for key, value in entry_points.items()]
    (info / "entry_points.txt").write_text("[asynctasq]\n" + "".join(lines))

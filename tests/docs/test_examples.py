"""Every Python block of the documentation runs, and prints what the page says.

A block stands below a comment `<!-- example: NAME -->`; blocks of one page with one name share a
namespace, and a worker runs after each. `needs: ...` names modules in `contexts/` with what the
reader is assumed to have. A `text` block right below shows the output. Fragments that cannot run
are `text` blocks as well. One that needs PostgreSQL finds a database of its own in `DATABASE_URL`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ..servers import postgres_database

ROOT = Path(__file__).parents[2]
#: Pages whose Python blocks another test runs: the test, and how many stand alone, in no file
#: that the page makes up.
ELSEWHERE = {
    # The first block only shows how a call looks; the second is the program.
    "README.md": ("tests/acceptance/test_readme.py::test_the_complete_example_runs_as_printed", 2),
    "docs/hooks.md": ("tests/docs/test_hooks_docs.py::folder", 0),
    "docs/testing.md": ("tests/docs/test_testing_page.py::folder", 0),
    "docs/writing-an-adapter.md": (
        "tests/docs/test_writing_an_adapter.py::test_the_blocks_put_together_are_the_example",
        0,
    ),
    "docs/writing-a-broker.md": (
        "tests/docs/test_writing_a_broker.py::test_the_blocks_put_together_are_the_example",
        0,
    ),
    "examples/asynctasq-peewee/README.md": (
        "tests/acceptance/test_peewee_example.py::test_the_commands_of_the_guide_work",
        0,
    ),
    "examples/asynctasq-toybroker/README.md": (
        "tests/acceptance/test_toybroker_example.py::test_the_commands_of_the_guide_work",
        0,
    ),
    "packages/asynctasq-django/README.md": (
        "tests/django/test_readme.py::test_the_example_runs_as_printed",
        4,
    ),
    "packages/asynctasq-sqlalchemy/README.md": (
        "tests/sqlalchemy/test_readme.py::test_the_example_runs_as_printed",
        1,
    ),
    "packages/asynctasq-tortoise/README.md": (
        "tests/tortoise/test_readme.py::test_the_example_runs_as_printed",
        1,
    ),
}
PAGES = [
    *(ROOT / "docs").rglob("*.md"),
    *ROOT.glob("*.md"),
    *ROOT.glob("packages/*/README.md"),
    *ROOT.glob("examples/*/README.md"),
]
NAMES = sorted(str(page.relative_to(ROOT)) for page in PAGES)
_FENCE = re.compile(r"^```", re.MULTILINE)
_BLOCK = re.compile(
    r"(?:^<!-- example: (?P<name>[\w-]+)(?:, needs: (?P<needs>[\w ]+))? -->\n)?"
    r"^```python\n(?P<code>.*?)^```$"
    r"(?:\n\n^```text\n(?P<output>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)


@dataclass
class Example:
    """The blocks of one name on one page.

    Attributes:
        outputs: What each block prints; `None` if the page does not say.
    """

    contexts: list[str] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    outputs: list[str | None] = field(default_factory=list)


def examples(page: str) -> dict[str, Example]:
    """The examples of a page by name; those of blocks without a comment are named ``."""
    found: dict[str, Example] = {}
    for match in _BLOCK.finditer((ROOT / page).read_text()):
        example = found.setdefault(match["name"] or "", Example())
        example.contexts += (match["needs"] or "").split()
        example.codes.append(match["code"])
        example.outputs.append(match["output"])
    return found


@pytest.mark.parametrize("page", sorted(set(NAMES) - set(ELSEWHERE)))
def test_every_python_block_is_run(page: str) -> None:
    text = (ROOT / page).read_text()
    assert len(_FENCE.findall(text)) % 2 == 0
    blocks = sum(len(e.codes) for e in examples(page).values())
    assert text.count("```python") == blocks
    assert "" not in examples(page), "a block without `<!-- example: NAME -->`"


@pytest.mark.parametrize("page", ELSEWHERE)
def test_another_test_runs_as_many_blocks_as_there_are(page: str) -> None:
    test, alone = ELSEWHERE[page]
    path, _, name = test.partition("::")
    assert f"def {name}(" in (ROOT / path).read_text()
    assert len(re.findall(r"^```python$", (ROOT / page).read_text(), re.MULTILINE)) == alone


@pytest.mark.parametrize(
    ("page", "name"),
    [(page, name) for page in NAMES if page not in ELSEWHERE for name in examples(page)],
)
def test_the_example_runs_and_prints_what_the_page_shows(
    page: str, name: str, tmp_path: Path
) -> None:
    example = examples(page)[name]
    given = {"name": f"{name.replace('-', '_')}_page", **vars(example)}
    (tmp_path / "given.json").write_text(json.dumps(given))
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ASYNCTASQ_", "DJ"))}
    environment = {**inherited, "ASYNCTASQ_DRIVER": "memory"}
    with ExitStack() as stack:
        if "DATABASE_URL" in "".join(example.codes) or "_postgres_" in "".join(example.contexts):
            url = stack.enter_context(postgres_database("asynctasq_docs"))
            environment["DATABASE_URL"] = url.replace("postgresql://", "postgresql+asyncpg://")
            del environment["ASYNCTASQ_DRIVER"]
        done = subprocess.run(
            [sys.executable, "-W", "error", Path(__file__).parent / "run_blocks.py", "given.json"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    for code, shown, output in zip(example.codes, example.outputs, printed, strict=True):
        assert shown is None or output == shown, f"{code}\n{done.stderr}"


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    """Where links may lead on a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return {anchor(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", NAMES)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" in target:
            continue
        file, _, fragment = target.partition("#")
        other = (path.parent / file) if file else path
        assert other.exists(), target
        assert not fragment or fragment in anchors(other), target

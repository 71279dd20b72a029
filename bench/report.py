"""Medians, ranges and ratios as a Markdown table, with what they were measured on."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version


@dataclass(frozen=True, slots=True)
class Column:
    """One measurement: its title with the unit, its decimals, and which way is better."""

    key: str
    title: str
    decimals: int = 0
    more_is_better: bool | None = None


def table(columns: Sequence[Column], runs: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """A line per measurement, a column per subject: median, range, and ratio to the best.

    Args:
        runs: By subject: its repetitions, each with the measurements it took.
    """
    lines = ["| | " + " | ".join(runs) + " |", "|---" + "|---:" * len(runs) + "|"]
    for column in columns:
        values = {
            name: [run[column.key] for run in some if column.key in run]
            for name, some in runs.items()
        }
        medians = {name: statistics.median(v) for name, v in values.items() if v}
        if not medians:
            continue
        best = None
        if column.more_is_better is not None:
            best = (max if column.more_is_better else min)(medians.values())
        cells = [_cell(column, values[name], best) if values[name] else "-" for name in runs]
        lines.append(f"| {column.title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(column: Column, values: Sequence[float], best: float | None) -> str:
    def number(value: float) -> str:
        return f"{value:,.{column.decimals}f}"

    median = statistics.median(values)
    text = f"**{number(median)}**" if best is not None and median == best else number(median)
    if best and median != best:
        text += f" ({median / best:.2f}x)"
    if len(values) > 1:
        text += f"<br>{number(min(values))} to {number(max(values))}"
    return text


def circumstances(*distributions: str, **more: object) -> str:
    """What was measured on, for below the table."""
    parts = [
        f"{datetime.now(UTC):%Y-%m-%d}",
        f"{platform.machine()}, {os.cpu_count()} cores",
        f"Python {platform.python_version()}",
    ]
    for name in distributions:
        try:
            parts.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    parts += [f"{name.replace('_', ' ')} {value}" for name, value in more.items()]
    return "Measured " + ", ".join(parts) + "."

"""The last hour as bars, drawn by the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import time

from asynctasq.history import MINUTES, Counts, Minute

from .text import duration, number

#: Size of the drawing, which is scaled to the width of the page.
WIDTH, HEIGHT = 600, 96

_STEP = WIDTH / MINUTES


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle of a chart."""

    x: float
    y: float
    height: float
    kind: str


@dataclass(frozen=True, slots=True)
class Column:
    """A minute of a chart: its bars from the bottom up, and what they say in words."""

    x: float
    bars: Sequence[Bar]
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart with a column per minute, the latest at the right.

    Attributes:
        top: What the full height means, in words.
    """

    columns: Sequence[Column]
    top: str
    width: int = WIDTH
    height: int = HEIGHT
    bar_width: float = _STEP - 2


@dataclass(frozen=True, slots=True)
class Hour:
    """Every minute of the last hour, each with the combined counts of all tasks."""

    minutes: Sequence[tuple[int, Counts]]

    @classmethod
    def of(cls, kept: Sequence[Minute], now: float | None = None) -> Hour:
        """The hour of these minutes, filled up with minutes in which nothing ran."""
        by_start: dict[int, Counts] = {}
        for minute in kept:
            total = by_start.setdefault(minute.at, Counts())
            for counts in minute.rows.values():
                total.add(counts)
        last = int(time() if now is None else now) // 60 * 60
        starts = [last - 60 * back for back in reversed(range(MINUTES))]
        return cls([(start, by_start.get(start, Counts())) for start in starts])

    @property
    def total(self) -> Counts:
        """The counts of all minutes together."""
        total = Counts()
        for _, counts in self.minutes:
            total.add(counts)
        return total

    def runs(self) -> Chart:
        """Runs by how they ended."""
        top = max(max((c.runs for _, c in self.minutes), default=0), 1)
        columns = []
        for place, (_, counts) in enumerate(self.minutes):
            parts = {
                "good": counts.succeeded,
                "fair": counts.retried,
                "bad": counts.dead,
                "off": counts.postponed,
            }
            text = (
                f"{_ago(place)}: {number(counts.succeeded)} succeeded, "
                f"{number(counts.retried)} failed and retried, {number(counts.dead)} given up"
            )
            columns.append(Column(_x(place), _stacked(place, parts, top), text))
        return Chart(columns, f"{number(top)} runs a minute")

    def lateness(self) -> Chart:
        """The latest start of each minute."""
        top = max(max((c.latest_seconds for _, c in self.minutes), default=0.0), 1.0)
        columns = []
        for place, (_, counts) in enumerate(self.minutes):
            mean = counts.late_seconds / counts.runs if counts.runs else 0.0
            parts = {"late": mean, "latest": counts.latest_seconds - mean}
            text = (
                f"{_ago(place)}: late by {duration(mean)} on average, "
                f"{duration(counts.latest_seconds)} at most"
            )
            columns.append(Column(_x(place), _stacked(place, parts, top), text))
        return Chart(columns, duration(top))


def _ago(place: int) -> str:
    back = MINUTES - 1 - place
    return "this minute" if back == 0 else f"{back} min ago"


def _x(place: int) -> float:
    return round(place * _STEP + 1, 2)


def _stacked(place: int, parts: Mapping[str, float], top: float) -> list[Bar]:
    bars: list[Bar] = []
    y = float(HEIGHT)
    for kind, value in parts.items():
        if value > 0:
            height = max(value / top * HEIGHT, 1.0)
            y = max(y - height, 0.0)
            bars.append(Bar(_x(place), round(y, 2), round(height, 2), kind))
    return bars


@dataclass(frozen=True, slots=True)
class Line:
    """The hour of one task on one queue."""

    task: str
    queue: str
    counts: Counts

    @property
    def late_seconds(self) -> float:
        """The average delay of a start."""
        return self.counts.late_seconds / max(self.counts.runs, 1)

    @property
    def run_seconds(self) -> float:
        """The average time of a run."""
        return self.counts.run_seconds / max(self.counts.runs, 1)


def by_task(kept: Sequence[Minute]) -> list[Line]:
    """The hour of each task, tasks with the longest delays first."""
    total: dict[tuple[str, str], Counts] = {}
    for minute in kept:
        for names, counts in minute.rows.items():
            total.setdefault(names, Counts()).add(counts)
    lines = [Line(task, queue, counts) for (task, queue), counts in total.items()]
    return sorted(lines, key=lambda line: (-line.counts.latest_seconds, line.task, line.queue))


def by_queue(kept: Sequence[Minute]) -> dict[str, Counts]:
    """The counts of each queue."""
    total: dict[str, Counts] = {}
    for minute in kept:
        for (_, queue), counts in minute.rows.items():
            total.setdefault(queue, Counts()).add(counts)
    return total

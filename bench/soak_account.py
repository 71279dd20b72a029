"""The account of a soak: what was sent, what ran, what ran twice and why."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

#: A task is in flight until its outcome is settled: so long after its end at most, in seconds.
SETTLED_WITHIN = 1.0


@dataclass(frozen=True, slots=True)
class Disturbance:
    """Something that was done to a process, or to the broker if `pid` is None; Unix times."""

    kind: str
    pid: int | None
    began: float
    ended: float


@dataclass(slots=True)
class Run:
    """One run of a task in one process."""

    pid: int
    began: float
    ended: float = inf


@dataclass(slots=True)
class Account:
    """What the ledgers say.

    Attributes:
        sent: Numbers whose dispatch succeeded.
        uncertain: Numbers whose dispatch was refused or cut short: they may have run, or not.
        finished: Numbers whose task ended.
        repeated: How many runs were one too many, each of a task that was in flight when its
            process or the broker was disturbed.
        unexplained: Runs that were one too many for no reason known.
        recovery_seconds: From each kill to the next run of what was running.
    """

    sent: set[int] = field(default_factory=set)
    uncertain: set[int] = field(default_factory=set)
    finished: set[int] = field(default_factory=set)
    repeated: int = 0
    unexplained: list[str] = field(default_factory=list)
    recovery_seconds: list[float] = field(default_factory=list)

    @property
    def lost(self) -> set[int]:
        """Sent, and not finished."""
        return self.sent - self.finished

    @property
    def strange(self) -> set[int]:
        """Finished, and never sent."""
        return self.finished - self.sent - self.uncertain

    @property
    def is_good(self) -> bool:
        """Whether every promise was kept."""
        return bool(self.sent) and not (self.lost or self.strange or self.unexplained)

    def lines(self) -> Iterator[str]:
        """The account as a Markdown table."""
        yield from ("| | |", "|---|---:|")
        yield f"| dispatched | {len(self.sent):,} |"
        yield f"| refused or cut short at dispatch | {len(self.uncertain):,} |"
        yield f"| of these, ran | {len(self.uncertain & self.finished):,} |"
        yield f"| dispatched and finished | {len(self.sent & self.finished):,} |"
        yield f"| **lost** | **{len(self.lost):,}** |"
        yield f"| ran without having been sent | {len(self.strange):,} |"
        yield f"| repeated, in flight when disturbed | {self.repeated:,} |"
        yield f"| repeated for no reason | {len(self.unexplained):,} |"
        if self.recovery_seconds:
            median = statistics.median(self.recovery_seconds)
            yield f"| from a kill to the next run, median s | {median:.2f} |"
            yield f"| from a kill to the next run, longest s | {max(self.recovery_seconds):.2f} |"


def account(folder: Path, disturbances: Iterable[Disturbance]) -> Account:
    """Read the ledgers."""
    made = Account()
    for word, *numbers in _lines(folder / "sent"):
        batch = set(map(int, numbers))
        if word == "sent":
            made.sent |= batch
            made.uncertain -= batch
        else:
            made.uncertain |= batch
    all_of_them = list(disturbances)
    for (number, attempt), runs in _runs(folder, made).items():
        _judge(made, f"task {number}, attempt {attempt}", runs, all_of_them)
    return made


def _lines(ledger: Path) -> Iterator[list[str]]:
    for line in ledger.read_text().splitlines():
        *words, last = line.split()
        if last == "whole":
            yield words


def _runs(folder: Path, made: Account) -> dict[tuple[int, int], list[Run]]:
    runs: dict[tuple[int, int], list[Run]] = defaultdict(list)
    for what, number, attempt, pid, at in _lines(folder / "runs"):
        of_attempt = runs[int(number), int(attempt)]
        if what == "began":
            of_attempt.append(Run(int(pid), float(at)))
            continue
        [*_, run] = (run for run in of_attempt if run.pid == int(pid))
        run.ended = float(at)
        if what == "ended":
            made.finished.add(int(number))
    return runs


def _judge(made: Account, name: str, runs: list[Run], disturbances: list[Disturbance]) -> None:
    runs.sort(key=lambda run: run.began)
    for i, later in enumerate(runs[1:], 1):
        reasons = [d for run in runs[:i] for d in disturbances if _hits(d, run)]
        reasons += [d for d in disturbances if _delayed(d, later)]
        if not reasons:
            made.unexplained.append(f"{name}: {[(r.pid, r.began, r.ended) for r in runs]}")
            continue
        made.repeated += 1
        kills = [d.began for d in reasons if d.kind == "kill" and d.began < later.began]
        if kills and len(reasons) == len(kills):
            made.recovery_seconds.append(later.began - max(kills))


def _delayed(disturbance: Disturbance, run: Run) -> bool:
    """Whether the process was frozen with the message in its hands, and ran it when it woke."""
    is_it = disturbance.kind == "freeze" and disturbance.pid == run.pid
    return is_it and disturbance.began <= run.began <= disturbance.ended


def _hits(disturbance: Disturbance, run: Run) -> bool:
    if disturbance.pid not in (None, run.pid):
        return False
    in_flight_until = run.ended + SETTLED_WITHIN
    return disturbance.began <= in_flight_until and disturbance.ended >= run.began

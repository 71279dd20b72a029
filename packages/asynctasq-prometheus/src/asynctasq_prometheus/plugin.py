"""The hooks of asynctasq for Prometheus; nothing here imports prometheus-client before it is used.

Under `--processes` each worker process keeps its numbers in files in a folder that the parent
makes, which is how prometheus-client supports several processes. The parent shows the sums.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from tempfile import TemporaryDirectory

from asynctasq import QueueStats, Worker, hookimpl

from .folder import FOLDER

_folders: list[TemporaryDirectory[str]] = []
_measuring: list[asyncio.Task[None]] = []


@hookimpl
def metrics_page(
    has_processes: bool,
) -> Callable[[Sequence[QueueStats] | None], tuple[str, bytes]]:
    """Start measuring, and return the function that makes the page."""
    if has_processes and FOLDER not in os.environ:
        folder = TemporaryDirectory(prefix="asynctasq-metrics-")
        _folders.append(folder)  # deleted with this process
        os.environ[FOLDER] = folder.name
    from .page import page

    if not has_processes:
        from .measuring import measure

        measure()
    return page


@hookimpl
def worker_started(worker: Worker) -> None:
    """Measure in a worker whose parent shows metrics; also measure its event loop."""
    if FOLDER in os.environ:
        from .measuring import measure

        measure()
    from .measuring import is_measuring

    if is_measuring():
        from .backlog import measure_backlog
        from .loop_lag import measure_lag

        _measuring.append(asyncio.create_task(measure_lag()))
        _measuring.append(asyncio.create_task(measure_backlog()))


@hookimpl
def worker_stopped() -> None:
    """Stop measuring."""
    while _measuring:
        _measuring.pop().cancel()

"""The hooks of asynctasq for Prometheus; nothing here imports prometheus-client before it is used.

Under `--processes` each worker process keeps its numbers in files of a folder that the parent
makes, as prometheus-client does it for several processes, and the parent shows them together.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from tempfile import TemporaryDirectory

from asynctasq import QueueStats, Worker, hookimpl

from .folder import FOLDER

_folders: list[TemporaryDirectory[str]] = []
_lag: asyncio.Task[None] | None = None


@hookimpl
def metrics_page(
    has_processes: bool,
) -> Callable[[Sequence[QueueStats] | None], tuple[str, bytes]]:
    """Begin to measure, and say how the page is made."""
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
    """Measure in a worker whose parent shows metrics, and the event loop of each that measures."""
    global _lag
    if FOLDER in os.environ:
        from .measuring import measure

        measure()
    from .measuring import is_measuring

    if is_measuring():
        from .loop_lag import measure_lag

        _lag = asyncio.create_task(measure_lag())


@hookimpl
def worker_stopped() -> None:
    """Leave the event loop alone."""
    if _lag is not None:
        _lag.cancel()

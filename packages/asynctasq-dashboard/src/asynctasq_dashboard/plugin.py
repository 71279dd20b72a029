"""The hooks of asynctasq for the dashboard: with it installed, workers record the last hour."""

from __future__ import annotations

from asynctasq import Worker, hookimpl
from asynctasq.history import Recording

_recordings: dict[str, Recording] = {}


@hookimpl
def worker_started(worker: Worker) -> None:
    """Start counting what the worker runs."""
    recording = _recordings[worker.id] = Recording()
    recording.start()


@hookimpl
async def worker_stopped(worker: Worker) -> None:
    """Write the remaining counts."""
    recording = _recordings.pop(worker.id, None)
    if recording is not None:
        await recording.stop()

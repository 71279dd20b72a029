"""The hooks of asynctasq for the dashboard: where it is installed, workers keep the last hour."""

from __future__ import annotations

from asynctasq import Worker, hookimpl
from asynctasq.history import Recording

_recordings: dict[str, Recording] = {}


@hookimpl
def worker_started(worker: Worker) -> None:
    """Count what it runs."""
    recording = _recordings[worker.id] = Recording()
    recording.start()


@hookimpl
async def worker_stopped(worker: Worker) -> None:
    """Write down the rest."""
    recording = _recordings.pop(worker.id, None)
    if recording is not None:
        await recording.stop()

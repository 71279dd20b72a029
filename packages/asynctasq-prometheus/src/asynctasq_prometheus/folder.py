"""The folder in which the worker processes of one parent keep their numbers."""

from __future__ import annotations

#: The variable in which prometheus-client looks for the folder.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"

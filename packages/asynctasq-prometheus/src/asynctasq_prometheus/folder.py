"""The folder in which the worker processes of one parent keep their numbers."""

from __future__ import annotations

#: Where prometheus-client looks for its name.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"

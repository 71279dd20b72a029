"""Metrics of asynctasq for Prometheus: runs, queues and event loops."""

from .measuring import measure

__all__ = ["measure"]

__version__ = "0.1.0"

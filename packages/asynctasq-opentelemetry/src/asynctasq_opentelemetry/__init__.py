"""Traces and metrics of asynctasq with OpenTelemetry; installing this package is enough."""

__version__ = "0.1.0"

"""Traces and metrics of asynctasq with OpenTelemetry; to install it is all there is to do."""

__version__ = "0.1.0"

"""A web page for operators of asynctasq: an ASGI application to mount or to serve by itself."""

from .application import dashboard

__all__ = ["dashboard"]

__version__ = "0.1.0"

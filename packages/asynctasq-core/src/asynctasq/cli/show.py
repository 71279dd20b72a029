"""`asynctasq show`, short for `asynctasq tasks show`."""

from .tasks import show_command as command

__all__ = ["command"]

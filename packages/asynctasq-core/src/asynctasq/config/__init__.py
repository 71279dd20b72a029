"""What asynctasq can be told, by arguments and by environment variables."""

from .settings import Config, Section

__all__ = ["Config", "Section"]

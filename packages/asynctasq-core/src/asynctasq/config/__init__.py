"""Configuration, from arguments and environment variables."""

from .settings import Config, Section

__all__ = ["Config", "Section"]

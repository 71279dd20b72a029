"""What asynctasq can be told, by arguments and by environment variables."""

from .settings import Config, RedisConfig, SQLiteConfig

__all__ = ["Config", "RedisConfig", "SQLiteConfig"]

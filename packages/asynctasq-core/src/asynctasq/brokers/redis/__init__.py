"""The Redis broker, for Redis 6.2 or later and Valkey: standalone, Sentinel, Cluster, TLS."""

from __future__ import annotations

from .broker import RedisBroker

__all__ = ["RedisBroker"]

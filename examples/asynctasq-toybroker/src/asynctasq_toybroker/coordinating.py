"""Coordinating: leases by name."""

import time

from .store import Stored


class ToyCoordinating(Stored):
    async def lead(self, name: str, holder: str, ttl_seconds: float) -> bool:
        async with self._store.change() as state:
            leader, until = state.leads.get(name, (holder, 0.0))
            if leader != holder and until > time.time():
                return False
            state.leads[name] = (holder, time.time() + ttl_seconds)
            return True

    async def resign(self, name: str, holder: str) -> None:
        async with self._store.change() as state:
            if state.leads.get(name, ("", 0.0))[0] == holder:
                del state.leads[name]

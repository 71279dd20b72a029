"""As `killed_at_call`, with every statement and commit of the database as steps, and each put.

What the workers do in turns is done in quick ones, so that a round does not wait for them.
"""

from __future__ import annotations

from asynctasq.brokers.redis.broker import RedisBroker
from asynctasq.brokers.sqlite.broker import SQLiteBroker
from asynctasq.services import running
from asynctasq.services.relay import Relay
from killed_at_call import _deadly  # type: ignore[import-not-found]
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

for _broker in (RedisBroker, SQLiteBroker):
    setattr(_broker, "put", _deadly(_broker.put))  # noqa: B010 - a method
for _name in ("do_execute", "do_commit"):
    setattr(PGDialect_asyncpg, _name, _deadly(getattr(PGDialect_asyncpg, _name)))

Relay.interval_seconds = 0.2
running._SHORTEST_LEASE_SECONDS = 1.0

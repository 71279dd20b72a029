"""The broker: the whole contract, in the tables of one schema.

Every transition is one statement, usually a call of one function in the schema (`functions.sql`),
so a process or server killed at any moment loses nothing and leaves nothing half done. All times
are the server's, except due times, which are the sender's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from asynctasq import BrokerError, Statement
from asynctasq.brokers import (
    PAUSES,
    ConsumerOptions,
    DeadLetter,
    Finding,
    HeldMessage,
    HeldPage,
    HeldState,
    KeyInUse,
    MessageState,
    Outcome,
    Outgoing,
    QueueStats,
    WorkerInfo,
    pause_number,
)

from . import joining, listing, queries, schema
from .address import Address
from .awaited_results import AwaitedResults
from .config import PostgresConfig
from .consumer import PostgresConsumer, topics_of
from .doctor import check_server
from .putting import PUT, PUT_POLICED, columns, places, policy_columns
from .server import Server
from .sizes import MOST_VALUE_BYTES, pages
from .waking import Wakes, queue_topic, result_topic, value_topic, wait

logger = logging.getLogger(__name__)

#: Number of rows to delete in one statement.
_CHUNK = 5000


class PostgresBroker:
    """A broker in one schema of a database; creates the schema on first use if it is missing."""

    dialect: Literal["postgresql"] = "postgresql"

    def __init__(self, config: PostgresConfig) -> None:
        self._address = Address(config)
        self.timeout_seconds = config.timeout
        self._server = Server(self._address, config.pool_size)
        self._wakes = Wakes(self._server)
        self._results = AwaitedResults(self._server, self._wakes)
        self._schema = self._address.schema

    async def put(self, messages: Sequence[Outgoing]) -> Mapping[str, str] | None:
        """Add the messages, in one statement unless there are thousands or they are large."""
        conflicts: dict[str, str] = {}
        for page in self._pages(messages):
            if any(m.policy is not None for m in page):
                rows = await self._insist(PUT_POLICED, *columns(page), *policy_columns(page))
                conflicts.update((row["id"], row["holder"]) for row in rows)
            else:
                await self._insist(PUT, *columns(page))
            self._wakes.tell({queue_topic(m.queue) for m in page})
        return conflicts or None

    def _pages(self, messages: Sequence[Outgoing]) -> Iterable[Sequence[Outgoing]]:
        for m in messages:
            if len(m.body) > MOST_VALUE_BYTES:
                raise BrokerError(f"{self._address.name} takes no message of {len(m.body)} bytes")
        return pages(messages, lambda m: len(m.body))

    def consumer(self, options: ConsumerOptions) -> PostgresConsumer:
        """A consumer that has not started yet."""
        return PostgresConsumer(self._server, self._wakes, options)

    async def state(self, queue: str, message_id: str) -> MessageState | None:
        """Where the message is now."""
        rows = await self._insist(queries.STATE, queue, message_id)
        state: MessageState | None = rows[0]["state"] if rows else None
        return state

    async def cancel(
        self, queue: str, message_id: str, result: bytes | None, result_ttl: float
    ) -> bool:
        """Remove a message that has not started."""
        sql = "SELECT {schema}.cancel($1, $2, $3, $4)"
        is_cancelled = await self._server.value(
            sql.format(schema=self._schema),
            queue,
            message_id,
            result,
            float(result_ttl),
            is_repeatable=False,
        )
        if is_cancelled and result is not None:
            self._wakes.tell([result_topic(queue)])
        return bool(is_cancelled)

    async def result(self, queue: str, message_id: str, timeout_seconds: float) -> bytes | None:
        """The kept result; waits for it."""
        return await self._results.get(queue, message_id, timeout_seconds)

    async def stats(self) -> list[QueueStats]:
        """Every known queue, by name."""
        return [QueueStats(**row) for row in await self._insist(queries.STATS)]

    async def workers(self) -> list[WorkerInfo]:
        """Workers with a recent sign of life, and how many messages each is running."""
        rows = await self._insist(queries.WORKERS)
        return [WorkerInfo(**{**row, "queues": tuple(row["queues"])}) for row in rows]

    async def dead_letters(
        self, queue: str, *, limit: int = 100, offset: int = 0
    ) -> list[DeadLetter]:
        """A page of the dead letters, newest first."""
        rows = await self._insist(queries.DEAD_LETTERS, queue, limit, offset)
        return [DeadLetter(**row) for row in rows]

    async def find_dead(self, queue: str, message_ids: Sequence[str]) -> list[DeadLetter]:
        """Those of these dead letters that exist."""
        rows = await self._insist(queries.FIND_DEAD, queue, list(message_ids))
        return [DeadLetter(**row) for row in rows]

    async def held(
        self, queue: str, state: HeldState, *, limit: int = 100, after: str | None = None
    ) -> HeldPage:
        """A page of the messages in a state."""
        return await listing.held(self._insist, queue, state, limit, after)

    async def find_held(self, queue: str, message_ids: Sequence[str]) -> list[HeldMessage]:
        """Those of these messages that are waiting, delayed or running."""
        rows = await self._insist(listing.FIND, queue, list(message_ids))
        return [listing.shown(queue, row["state"], row) for row in rows]

    async def retry_dead(self, queue: str, bodies: Sequence[tuple[str, bytes]]) -> int:
        """Move dead letters back to waiting."""
        moved = 0
        for page in pages(bodies, lambda pair: len(pair[1])):
            ids, new = [message_id for message_id, _ in page], [body for _, body in page]
            moved += await self._value("SELECT {schema}.retry_dead($1, $2, $3)", queue, ids, new)
            self._wakes.tell([queue_topic(queue)])
        return moved

    async def purge_dead(self, queue: str, message_ids: Sequence[str] | None = None) -> int:
        """Delete dead letters."""
        ids = None if message_ids is None else list(message_ids)
        return await self._delete("SELECT {schema}.purge_dead_some($1, $2, $3)", queue, ids)

    async def purge(self, queue: str) -> int:
        """Delete all waiting and delayed messages."""
        return await self._delete("SELECT {schema}.purge_some($1, $2)", queue)

    async def release_worker(self, worker_id: str, queues: Sequence[str]) -> int:
        """Release everything leased to a worker known to be dead."""
        released: int = await self._value("SELECT {schema}.withdraw($1, 0)", worker_id)
        if released:
            self._wakes.tell([queue_topic(queue) for queue in queues])
        return released

    async def lead(self, name: str, holder: str, ttl_seconds: float) -> bool:
        """Take or renew a lease by name."""
        sql = "SELECT {schema}.lead($1, $2, $3)"
        return bool(await self._value(sql, name, holder, float(ttl_seconds)))

    async def resign(self, name: str, holder: str) -> None:
        """Give up a lease by name."""
        await self._insist(
            "DELETE FROM {schema}.lead WHERE name = $1 AND holder = $2", name, holder
        )

    async def keys_in_use(self, queue: str, *, limit: int = 100) -> list[KeyInUse]:
        """The keys that are taken or have messages."""
        rows = await self._insist(queries.KEYS, queue, limit)
        return [KeyInUse(**{**row, "holders": tuple(row["holders"])}) for row in rows]

    async def pauses(self, queue: str) -> Mapping[str, bytes]:
        """The pauses of a queue by name."""
        return await self.values(queue, PAUSES)

    async def pause(self, queue: str, name: str, value: bytes) -> None:
        """Begin a pause."""
        await self._insist("SELECT {schema}.pause($1, $2, $3)", queue, name, value)
        self._wakes.tell([queue_topic(queue)])

    async def resume(self, queue: str, name: str) -> bool:
        """End a pause."""
        ended = await self._value(
            "SELECT {schema}.resume($1, $2, $3)", queue, name, pause_number(name)
        )
        self._wakes.tell([queue_topic(queue)])
        return bool(ended)

    async def values(self, queue: str, kind: str) -> Mapping[str, bytes]:
        """All values of a kind."""
        rows = await self._insist(queries.VALUES, queue, kind)
        return {row["name"]: row["value"] for row in rows}

    async def value(self, queue: str, kind: str, name: str) -> bytes | None:
        """One value."""
        rows = await self._insist(queries.VALUE, queue, kind, name)
        return rows[0]["value"] if rows else None

    async def set_value(
        self,
        queue: str,
        kind: str,
        name: str,
        value: bytes | None,
        *,
        ttl_seconds: float | None = None,
        wakes: bool = False,
    ) -> None:
        """Keep a value, or delete it."""
        sql = "SELECT {schema}.set_value($1, $2, $3, $4, $5)"
        await self._insist(sql, queue, kind, name, value, ttl_seconds)
        if wakes:
            self._wakes.tell([value_topic(queue, kind, name)])

    async def changed_value(
        self, queue: str, kind: str, name: str, known: bytes | None, timeout_seconds: float
    ) -> bytes | None:
        """Wait until a value is another than the known one."""
        deadline = time.monotonic() + timeout_seconds
        topics = [value_topic(queue, kind, name)]
        with self._wakes.waiter(topics) as changed:
            while True:
                changed.clear()
                if timeout_seconds > 0:
                    await self._wakes.listen(topics)
                found = await self.value(queue, kind, name)
                left = deadline - time.monotonic()
                if found != known or left <= 0:
                    return found
                await wait(changed, min(left, self._wakes.poll_seconds))

    async def delete_values(self, queue: str, kind: str) -> None:
        """Delete all values of a kind."""
        await self._delete(queries.DELETE_VALUES, queue, kind)

    async def replace_value(
        self,
        queue: str,
        kind: str,
        name: str,
        value: bytes | None,
        *,
        expected: bytes | None,
        messages: Sequence[Outgoing] = (),
        wakes: bool = False,
    ) -> bool:
        """Replace a value and put messages in one step."""
        replaced = await self._server.value(
            f"SELECT {self._schema}.replace_value({places(1, 18)})",
            queue,
            kind,
            name,
            value,
            expected,
            *columns(messages)[1:],
            *policy_columns(messages),
            is_repeatable=False,
        )
        if replaced and messages:
            self._wakes.tell([queue_topic(queue)])
        if replaced and wakes:
            self._wakes.tell([value_topic(queue, kind, name)])
        return bool(replaced)

    def whereabouts(self) -> Statement:
        """The statement that asks a transaction where it is."""
        return joining.whereabouts(self._address.config.schema)

    async def is_here(self, answer: Sequence[Sequence[Any]]) -> bool | None:
        """Whether an answer to that statement comes from this broker's database."""
        ((name, *there, may),) = answer
        if there[-1] is None and name != self._address.database:
            return False  # it lacks the schema, and its name is not this database's
        sql, schema = joining.own_whereabouts(), self._address.config.schema
        ((_, *here, _),) = await self._server.ask(sql, schema)
        if there[:-1] != here[:-1]:
            return False
        if there[-1] is None:
            return None  # asking has just created the schema
        if not may:
            logger.warning(
                "%s: the application's own user may not write there, so dispatches do not become "
                "part of its transactions; grant it what the broker's page lists",
                self._address.name,
            )
        return bool(may)

    def putting(self, messages: Sequence[Outgoing]) -> Iterable[Statement]:
        """Statements that add messages in a transaction of the application."""
        return [joining.putting(self._schema, page) for page in self._pages(messages)]

    def settling(self, outcome: Outcome) -> Statement:
        """The statement that settles a finished call in its own transaction."""
        return joining.settling(self._schema, outcome)

    def tell_put(self, messages: Sequence[Outgoing]) -> None:
        """Wake whoever waits for messages that a transaction has put."""
        self._wakes.tell({queue_topic(m.queue) for m in messages})

    def tell_settled(self, outcome: Outcome) -> None:
        """Wake whoever waits for the end of a call that a transaction has settled."""
        self._wakes.tell(set(topics_of(outcome)))

    async def check(self) -> list[Finding]:
        """Findings on what could lose messages or stop workers."""
        return await check_server(self._server)

    def tables(self) -> str:
        """The SQL that creates the schema."""
        return schema.script(self._address)

    async def create_tables(self) -> None:
        """Create the schema, or upgrade it to this version."""
        await self._server.upgrade()

    def describe(self) -> str:
        """`postgres`, host, database and schema."""
        return self._address.name

    async def close(self) -> None:
        """Close the connections."""
        await self._results.close()
        await self._wakes.close()
        await self._server.close()

    async def _insist(self, sql: str, *arguments: Any) -> list[Any]:
        return await self._server.insist(sql.replace("{schema}", self._schema), *arguments)

    async def _value(self, sql: str, *arguments: Any) -> Any:
        ((value,),) = await self._insist(sql, *arguments)
        return value

    async def _delete(self, sql: str, *arguments: Any) -> int:
        """Delete in chunks, so that nobody waits long for the locks of any one."""
        deleted = 0
        while some := await self._value(sql, *arguments, _CHUNK):
            deleted += some
        return deleted

"""Small named values, kept in a hash for each kind of each queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .. import Outgoing
from .asks import is_asking
from .keys import Keys
from .pages import AT_ONCE
from .putting import arguments
from .scripts import DELETE_VALUES, REPLACE_VALUE, SET_VALUE, VALUE, VALUES, Command
from .server import Server


class RememberedValues:
    """The values in the queues of one server."""

    def __init__(self, server: Server, keys: Keys) -> None:
        self._server = server
        self._keys = keys

    async def all(self, queue: str, kind: str) -> Mapping[str, bytes]:
        """All values of a kind, by name."""
        key = self._keys.of(queue).kind(kind)
        values: dict[str, bytes] = {}
        cursor = b"0"
        while True:
            cursor, *found = await self._server.insist(key, VALUES((key,), cursor))
            pairs = zip(found[::2], found[1::2], strict=True)
            values |= {name.decode("utf-8", "replace"): value for name, value in pairs}
            if cursor == b"0":
                return values

    async def get(self, queue: str, kind: str, name: str) -> bytes | None:
        """One value, until it expires."""
        key = self._keys.of(queue).kind(kind)
        value: bytes | None = await self._server.insist(key, self.reading(queue, kind, name))
        return value

    def reading(self, queue: str, kind: str, name: str) -> Command:
        """The command that answers with one value."""
        return VALUE((self._keys.of(queue).kind(kind),), name)

    async def set(
        self,
        queue: str,
        kind: str,
        name: str,
        value: bytes | None,
        ttl_seconds: float | None,
        *,
        wakes: bool,
    ) -> None:
        """Keep a value, or delete it; wake whoever waits for its change."""
        key = self._keys.of(queue).kind(kind)
        ttl_ms = 0 if ttl_seconds is None else max(1, round(ttl_seconds * 1000))
        is_kept = int(value is not None)
        command = SET_VALUE((key,), name, is_kept, value or b"", ttl_ms, int(wakes))
        await self._server.insist(key, command)

    async def delete_all(self, queue: str, kind: str) -> None:
        """Delete all values of a kind."""
        key = self._keys.of(queue).kind(kind)
        await self._server.insist_until_none(key, DELETE_VALUES((key,), AT_ONCE))

    def replacement(
        self,
        queue: str,
        kind: str,
        name: str,
        value: bytes | None,
        expected: bytes | None,
        messages: Sequence[Outgoing],
        *,
        wakes: bool,
    ) -> Command:
        """The command that replaces a value and puts messages if the value is `expected`."""
        keys = self._keys.of(queue)
        return REPLACE_VALUE(
            (*keys[:4], keys.kind(kind)),
            name,
            int(value is not None),
            value or b"",
            int(expected is not None),
            expected or b"",
            int(any(map(is_asking, messages))),
            int(wakes),
            *arguments(messages),
        )

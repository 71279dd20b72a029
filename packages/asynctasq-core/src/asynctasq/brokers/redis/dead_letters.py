"""The dead letters of a queue: pages of them, moving them back, deleting them."""

from __future__ import annotations

from collections.abc import Sequence

from .. import DeadLetter
from .keys import Keys
from .pages import AT_ONCE, BYTES_AT_ONCE, pages
from .scripts import DEAD, FIND_DEAD, PURGE_DEAD, RETRY_DEAD, Script
from .server import Server

#: Maximum dead letters per answer, and per call that deletes them.
_LETTERS_AT_ONCE = 100


class DeadLetters:
    """What is dead in the queues of one server."""

    def __init__(self, server: Server, keys: Keys) -> None:
        self._server = server
        self._keys = keys

    async def newest(self, queue: str, limit: int, offset: int) -> list[DeadLetter]:
        """A page of the queue's dead letters, newest first."""
        letters: list[DeadLetter] = []
        first, end = offset, offset + limit
        while first < end:
            last = min(first + _LETTERS_AT_ONCE, end) - 1
            passed, some = await self._read(queue, DEAD, first, last)
            letters += some
            if not passed:
                break
            first += passed
        return letters

    async def find(self, queue: str, message_ids: Sequence[str]) -> list[DeadLetter]:
        """The dead letters among these ids."""
        left = list(dict.fromkeys(message_ids))
        letters: list[DeadLetter] = []
        while left:
            passed, some = await self._read(queue, FIND_DEAD, *left[:AT_ONCE])
            letters += some
            del left[:passed]
        return letters

    async def retry(self, queue: str, bodies: Sequence[tuple[str, bytes]]) -> int:
        """Move dead letters back to waiting with these bodies; return how many were moved."""
        keys = self._keys.of(queue)
        retried = 0
        for page in pages(bodies, lambda pair: len(pair[1])):
            arguments = [value for pair in page for value in pair]
            retried += await self._server.insist(keys.stream, RETRY_DEAD(keys[:6], *arguments))
        return retried

    async def purge(self, queue: str, message_ids: Sequence[str] | None) -> int:
        """Delete these dead letters, or all in the queue; return how many."""
        keys = self._keys.of(queue)
        script_keys = (keys.ids, keys.dead, keys.letters)
        if message_ids is None:
            return await self._server.insist_until_none(keys.stream, PURGE_DEAD(script_keys))
        purged = 0
        for page in pages(message_ids, lambda _: BYTES_AT_ONCE // _LETTERS_AT_ONCE):
            purged += await self._server.insist(keys.stream, PURGE_DEAD(script_keys, *page))
        return purged

    async def _read(
        self, queue: str, script: Script, *arguments: str | int
    ) -> tuple[int, list[DeadLetter]]:
        """The letters in a script's reply, and how many the script has passed to find them."""
        keys = self._keys.of(queue)
        command = script((keys.dead, keys.letters), *arguments)
        passed, *page = await self._server.insist(keys.stream, command)
        rows = zip(page[::3], page[1::3], page[2::3], strict=True)
        return passed, [_dead_letter(queue, *row) for row in rows]


def _dead_letter(queue: str, message_id: bytes, died_at_ms: bytes, letter: bytes) -> DeadLetter:
    info_end = 4 + int.from_bytes(letter[:4], "big")
    return DeadLetter(
        queue,
        message_id.decode("utf-8", "replace"),
        letter[info_end:],
        letter[4:info_end],
        float(died_at_ms) / 1000,
    )

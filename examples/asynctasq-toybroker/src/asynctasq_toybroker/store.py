"""The file: read whole, changed under a lock, replaced in one step."""

import asyncio
import fcntl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import msgpack
from asynctasq import BrokerUnavailable
from asynctasq.brokers import MessageState

from .config import Config

LEASED, DELAYED, WAITING, DEAD = range(4)
Message = dict[str, Any]


def where(message: Message) -> MessageState:
    """`state` and `at` say it together, so that time alone changes nothing in the file.

    Leased until then, 0 if given back; delayed until then; waiting; dead since then.
    """
    if message["state"] == DEAD:
        return "dead"
    if message["at"] <= time.time():
        return "waiting"
    return "running" if message["state"] == LEASED else "delayed"


@dataclass
class State:
    """What the file holds.

    Attributes:
        number: Grows with each change; what needs a number of its own takes the next.
        queues: Messages by queue and id.
        results: Body and the time at which it is forgotten, by queue and id.
        workers: What is shown, and the time until which it is believed, by id.
        leads: Holder and end, by name.
    """

    number: int = 0
    queues: dict[str, dict[str, Message]] = field(default_factory=dict)
    results: dict[str, dict[str, tuple[bytes, float]]] = field(default_factory=dict)
    workers: dict[str, tuple[list[Any], float]] = field(default_factory=dict)
    leads: dict[str, tuple[str, float]] = field(default_factory=dict)

    def next(self) -> int:
        """A number that nothing else has."""
        self.number += 1
        return self.number

    def message(self, queue: str, message_id: str) -> Message | None:
        return self.queues.get(queue, {}).get(message_id)

    def having(self, queue: str, *states: MessageState) -> list[Message]:
        """The queue's messages that are in one of the states."""
        return [m for m in self.queues.get(queue, {}).values() if where(m) in states]

    def keep(self, queue: str, message_id: str, result: bytes, ttl: float) -> None:
        """Keep a result, and forget those whose time is over."""
        now = time.time()
        kept = {i: r for i, r in self.results.get(queue, {}).items() if r[1] > now}
        self.results[queue] = {**kept, message_id: (result, now + ttl)}

    def packed(self) -> bytes:
        """All but the number."""
        return bytes(msgpack.packb([self.queues, self.results, self.workers, self.leads]))


class Store:
    """The file of one folder; nothing is open between calls, and nothing belongs to a loop."""

    def __init__(self, config: Config) -> None:
        self.folder = Path(config.folder).expanduser().absolute()
        self._file = self.folder / "queues"
        self._config = config

    def read(self) -> State:
        """What the file holds now; it is only ever replaced by a whole one."""
        with self._explained():
            content = self._file.read_bytes() if self._file.exists() else b""
        if not content:
            return State()
        return State(int.from_bytes(content[:8]), *msgpack.unpackb(content[8:]))

    @asynccontextmanager
    async def change(self) -> AsyncIterator[State]:
        """A state of which all is kept at the end; nothing if there is an error, or a kill."""
        with await self._locked():
            state = self.read()
            before = state.packed()
            yield state
            after = state.packed()
            if after != before:
                with self._explained():
                    new = self.folder / "new"
                    new.write_bytes(state.next().to_bytes(8) + after)
                    new.replace(self._file)

    async def changed(self, number: int, deadline: float) -> None:
        """Return when the state is no longer that of this number, or when it is so late."""
        while self._number() == number:
            left = deadline - time.time()
            if left <= 0:
                return
            await asyncio.sleep(min(self._config.poll_interval, left))

    def _number(self) -> int:
        with self._explained():
            if not self._file.exists():
                return 0
            with self._file.open("rb") as file:
                return int.from_bytes(file.read(8))

    async def _locked(self) -> IO[str]:
        """The lock's file; whoever has it closes it. A killed process gives it up."""
        deadline = time.monotonic() + self._config.timeout
        with self._explained():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = (self.folder / "lock").open("w")
        try:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return lock
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise BrokerUnavailable(f"{self.folder} stays locked") from None
                await asyncio.sleep(0.002)
        except BaseException:
            lock.close()
            raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise BrokerUnavailable(f"queues in {self.folder}: {e.strerror}") from e


class Stored:
    """What the parts of the broker have in common."""

    def __init__(self, config: Config) -> None:
        self._store = Store(config)
        self.timeout_seconds = config.timeout

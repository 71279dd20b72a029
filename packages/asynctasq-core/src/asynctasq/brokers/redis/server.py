"""The server as a whole: one Redis, a master found through Sentinels, or a cluster.

Sends each command to the node that holds its key, and turns failures into the broker's errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import ResponseError

from ...errors import BrokerUnavailable
from .. import Backoff
from .address import Address
from .config import RedisConfig
from .failures import TRANSPORT_ERRORS, broker_error, code_of
from .scripts import Command
from .wire import LOOP_ERRORS, Wire

#: Idle connections kept per node; a burst of concurrent calls opens more.
_KEPT_WIRES = 8

#: A node of a cluster; `None` if the server is a single one.
Node = tuple[str, int] | None
#: A command, and a key that selects the node to send it to.
Request = tuple[bytes, Command]


class Server:
    """Where commands go; connects on first use."""

    def __init__(self, config: RedisConfig) -> None:
        self.address = Address(config)
        self.timeout_seconds = config.timeout
        self.is_cluster = config.cluster
        self._free: dict[Node, list[Wire]] = {}
        self._sentinel: SentinelConnectionPool | None = None
        self._cluster: RedisCluster | None = None
        self._cluster_nodes: list[tuple[str, int]] = []
        self._finding_cluster = asyncio.Lock()

    async def call(self, key: bytes, command: Command, timeout_seconds: float | None = None) -> Any:
        """Send a command once to the node that holds `key`.

        Args:
            timeout_seconds: Overrides the configured limit, for commands that block.

        Raises:
            BrokerUnavailable: There was no answer, or a temporary refusal.
            BrokerError: The server refused for good.
        """
        (reply,) = await self.call_many(((key, command),), timeout_seconds)
        return reply

    async def call_many(
        self, requests: Sequence[Request], timeout_seconds: float | None = None
    ) -> list[Any]:
        """Send commands in one round trip; in a cluster, in one per key, concurrently.

        Once all have been answered, the first refusal is raised.
        """
        limit = self.timeout_seconds if timeout_seconds is None else timeout_seconds
        if not self.is_cluster:
            return await self._ask(None, [command for _, command in requests], limit)
        by_key: dict[bytes, list[Command]] = {}
        for key, command in requests:
            by_key.setdefault(key, []).append(command)
        answers = await asyncio.gather(
            *(self._ask_cluster(key, commands, limit) for key, commands in by_key.items())
        )
        replies = dict(zip(by_key, map(iter, answers), strict=True))
        return [next(replies[key]) for key, _ in requests]

    async def insist(self, key: bytes, command: Command) -> Any:
        """Like `call`, but retry until the configured `timeout_seconds` are over."""
        (reply,) = await self.insist_many(((key, command),))
        return reply

    async def insist_many(self, requests: Sequence[Request]) -> list[Any]:
        """Like `call_many`, but retry until the configured `timeout_seconds` are over.

        Raises:
            BrokerUnavailable: All attempts failed; raised within that time, whatever the server
                does.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.timeout_seconds
        backoff = Backoff()
        left = self.timeout_seconds
        failure: BrokerUnavailable | None = None
        while True:
            try:
                return await self.call_many(requests, left)
            except BrokerUnavailable as e:
                # Prefer what used up the time over the mere fact that it is used up.
                if failure is None or not isinstance(e.__cause__, TimeoutError):
                    failure = e
            pause = backoff.next()
            left = deadline - loop.time() - pause
            if left <= 0:
                raise failure
            await asyncio.sleep(pause)

    async def insist_until_none(self, key: bytes, command: Command) -> int:
        """Repeat a command that does a part at a time until it did nothing; return the total."""
        total = 0
        while done := await self.insist(key, command):
            total += done
        return total

    async def open_wire(self, key: bytes) -> Wire:
        """A new connection to the node of `key`, for the caller alone, who must close it."""
        return self._new_wire(await self._node_of(key) if self.is_cluster else None)

    async def close(self) -> None:
        """Close idle connections; one in use closes when its exchange ends."""
        await asyncio.gather(*(wire.end() for wire in self._taken_out()))
        await self._forget_cluster()
        if self._sentinel is not None:
            for sentinel in self._sentinel.sentinel_manager.sentinels:
                await sentinel.aclose()
            self._sentinel = None

    async def _ask_cluster(
        self, key: bytes, commands: Sequence[Command], timeout_seconds: float
    ) -> list[Any]:
        for attempts_left in (1, 0):
            try:
                async with asyncio.timeout(timeout_seconds):
                    node = await self._node_of(key)
                return await self._ask(node, commands, timeout_seconds)
            except TRANSPORT_ERRORS as e:
                raise broker_error(e, self.address.name) from e
            except BrokerUnavailable as e:
                # MOVED means that nothing was done; the stale map of slots is already dropped.
                if not attempts_left or e.__cause__ is None or code_of(e.__cause__) != "MOVED":
                    raise
        raise AssertionError("the second attempt returns or raises")

    async def _ask(
        self, node: Node, commands: Sequence[Command], timeout_seconds: float
    ) -> list[Any]:
        free = self._free.get(node)
        try:
            wire = free.pop() if free else self._new_wire(node)
            replies = await wire.ask_all(commands, timeout_seconds)
            await self._keep(node, wire)
            for reply in replies:
                if isinstance(reply, ResponseError):
                    raise reply
        except TRANSPORT_ERRORS as e:
            await self._failed(e)
            raise broker_error(e, self.address.name) from e
        return replies

    async def _keep(self, node: Node, wire: Wire) -> None:
        free = self._free.setdefault(node, [])
        if len(free) < _KEPT_WIRES:
            free.append(wire)
        else:
            await wire.close()

    async def _failed(self, error: BaseException) -> None:
        code = code_of(error)
        if code in ("READONLY", "MASTERDOWN", "LOADING"):
            # These connections lead to a server that is not, or no longer, the master.
            await self._drop_wires()
        is_refusal = isinstance(error, ResponseError)
        if not is_refusal or code in ("MOVED", "READONLY", "MASTERDOWN", "CLUSTERDOWN"):
            await self._forget_cluster()

    async def _drop_wires(self) -> None:
        for wire in self._taken_out():
            await wire.close()

    def _taken_out(self) -> list[Wire]:
        wires = [wire for free in self._free.values() for wire in free]
        self._free.clear()
        return wires

    def _new_wire(self, node: Node) -> Wire:
        address = self.address
        if address.config.sentinels:
            return Wire(self._sentinel_pool().make_connection())
        options = address.options | address.tls_options | {"protocol": 2, "socket_timeout": None}
        if node is not None:
            options |= {"host": node[0], "port": node[1]}
        if "path" in options:
            return Wire(UnixDomainSocketConnection(**options))
        return Wire((SSLConnection if address.tls else Connection)(**options))

    def _sentinel_pool(self) -> SentinelConnectionPool:
        if self._sentinel is None:
            address = self.address
            self._sentinel = SentinelConnectionPool(
                address.config.sentinel_master,
                Sentinel(address.sentinel_nodes, sentinel_kwargs=address.sentinel_options),
                connection_class=(
                    SentinelManagedSSLConnection if address.tls else SentinelManagedConnection
                ),
                **address.credentials,
                **address.tls_options,
                protocol=2,
                socket_timeout=None,
            )
        return self._sentinel

    async def _node_of(self, key: bytes) -> Node:
        async with self._finding_cluster:
            if self._cluster is None:
                self._cluster = await self._find_cluster()
            node = self._cluster.get_node_from_key(key.decode())
        if node is None:
            raise BrokerUnavailable(f"{self.address.name} has no node for a queue's slot")
        return (str(node.host), int(node.port))

    async def _find_cluster(self) -> RedisCluster:
        address = self.address
        first = (address.options["host"], address.options["port"])
        cluster = RedisCluster(
            startup_nodes=[ClusterNode(*node) for node in {first, *self._cluster_nodes}],
            socket_timeout=self.timeout_seconds,
            ssl=address.tls,
            **address.credentials,
            **address.tls_options,
        )
        try:
            await cluster.initialize()
        except LOOP_ERRORS as e:
            await cluster.aclose()
            raise LostConnection(f"connection lost: {e}") from e
        except BaseException:
            await cluster.aclose()
            raise
        self._cluster_nodes = [(str(n.host), int(n.port)) for n in cluster.get_nodes()]
        return cluster

    async def _forget_cluster(self) -> None:
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            await cluster.aclose()

"""Keeping leases from a thread of its own, so that a blocked event loop does not lose them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import NoScriptError
from redis.retry import Retry
from redis.sentinel import Sentinel

from .. import ConsumerOptions, Delivery
from .address import Address
from .failures import TRANSPORT_ERRORS, broker_error
from .keys import Keys
from .registry import announcement
from .scripts import RENEW, Command, with_source
from .settling import enclosing

#: Entries of one script call: Lua takes up to 8,000 values at once.
_RENEWED_AT_ONCE = 1000


class Renewal:
    """Renews leases over a synchronous connection; used by one thread."""

    def __init__(
        self, address: Address, keys: Keys, options: ConsumerOptions, consumer: bytes
    ) -> None:
        self._address = address
        self._keys = keys
        self._options = options
        self._consumer = consumer
        self._client: Any = None

    def renew(self, held: Sequence[Delivery]) -> list[Delivery]:
        """Renew these leases and give a sign of life; returns those whose lease was lost.

        Raises:
            BrokerUnavailable: The server cannot be reached; the next call reconnects.
        """
        by_queue: dict[str, dict[bytes, Delivery]] = {}
        for delivery in held:
            by_queue.setdefault(delivery.queue, {})[delivery.tag] = delivery
        lost = []
        with self._connected() as client:
            for queue, deliveries in by_queue.items():
                for entries in _pages(list(deliveries)):
                    keys = (self._keys.of(queue).stream,)
                    command = RENEW(keys, self._consumer, *enclosing(entries), *entries)
                    lost += [deliveries[entry] for entry in _run(client, command)]
            _run(client, announcement(self._keys, self._options))
        return lost

    def _limits(self) -> dict[str, Any]:
        # An answer that takes a third of the lease leaves time to ask again before it runs out.
        seconds = min(self._address.config.timeout, self._options.lease_seconds / 3)
        # The server may have closed the connection since the last call.
        again = Retry(NoBackoff(), 1, supported_errors=(LostConnection,))
        return {"protocol": 2, "socket_timeout": seconds, "retry": again}

    def close(self) -> None:
        """Close the connection."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        try:
            if self._client is None:
                self._client = _client(self._address, self._limits())
            yield self._client
        except TRANSPORT_ERRORS as e:
            self.close()
            raise broker_error(e, self._address.name) from e


def _pages(entries: list[bytes]) -> Iterator[list[bytes]]:
    for i in range(0, len(entries), _RENEWED_AT_ONCE):
        yield entries[i : i + _RENEWED_AT_ONCE]


def _run(client: Any, command: Command) -> Any:
    try:
        return client.execute_command(*command)
    except NoScriptError:
        return client.execute_command(*with_source(command))


def _client(address: Address, limits: dict[str, Any]) -> Any:
    if address.config.sentinels:
        sentinel = Sentinel(address.sentinel_nodes, sentinel_kwargs=address.sentinel_options)
        return sentinel.master_for(
            address.config.sentinel_master,
            **address.credentials,
            **address.tls_options,
            **limits,
            ssl=address.tls,
        )
    if address.config.cluster:
        node = ClusterNode(address.options["host"], address.options["port"])
        return RedisCluster(
            startup_nodes=[node],
            **address.credentials,
            **address.tls_options,
            **limits,
            ssl=address.tls,
        )
    options = address.options | address.tls_options | limits
    if "path" in options:
        options["unix_socket_path"] = options.pop("path")
    return redis.Redis(**options, ssl=address.tls)

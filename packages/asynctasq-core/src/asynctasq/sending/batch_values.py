"""What the broker stores about a batch: its specification and its progress.

Owns the rule that each call of a batch counts once, however often it is reported: the broker stores
which calls have ended, not how many.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import msgpack

from ..errors import InvalidMessage
from ..wire.flow import BatchPlace, ChainLink, Flow, decode
from ..wire.message import sign, verify

#: Kinds of values: a batch's specification, its progress, and its calls' results.
BATCH, COUNTS, RESULTS = "batch", "batch-counts", "batch-results:"

#: Maximum size of the results in one value, unless one alone is larger.
MOST_RESULTS_BYTES = 32 * 1024

#: How long to keep a batch of which nothing has run, and one that is done.
UNTOUCHED_SECONDS, DONE_SECONDS = 30 * 86400.0, 7 * 86400.0

_PURPOSE, _OF_RESULTS = b"asynctasq-batch", b"asynctasq-parts"
_LIMITS = {"max_array_len": 1000, "max_map_len": 1000, "max_ext_len": 0}


@dataclass(frozen=True, slots=True)
class BatchSpec:
    """A batch's specification; written once.

    Attributes:
        total: How many calls the batch has.
        then: The call to make when all are done; with `takes_result`, it gets a list of their
            results.
        catch: The call to make when the first one has failed for good.
        place: Where the batch stands in another.
    """

    total: int
    then: ChainLink | None = None
    catch: ChainLink | None = None
    place: BatchPlace | None = None

    def encode(self, batch_id: str, keys: Sequence[bytes]) -> bytes:
        """The bytes for the broker, signed like messages."""
        links = [
            Flow((link,)).encode() if link is not None else b"" for link in (self.then, self.catch)
        ]
        packed: bytes = msgpack.packb(
            [batch_id, self.total, *links, Flow(place=self.place).encode()]
        )
        return sign(packed, keys, _PURPOSE)


def decode_spec(value: bytes, batch_id: str, keys: Sequence[bytes]) -> BatchSpec:
    """What a batch is.

    Raises:
        BadSignature: Unsigned, or signed with another key.
        InvalidMessage: It is damaged, or of another batch.
    """
    packed = verify(value, keys, _PURPOSE)
    try:
        its_id, total, then, catch, place = msgpack.unpackb(packed, **_LIMITS)
        first, second = (next(iter(decode(link).then), None) for link in (then, catch))
        spec = BatchSpec(total, first, second, decode(place).place)
    except (ValueError, TypeError, msgpack.UnpackException) as e:
        raise InvalidMessage(f"the broker holds a damaged batch {batch_id[:64]!r}") from e
    if its_id != batch_id or type(total) is not int or not 0 < total < 2**31:
        raise InvalidMessage(f"the broker holds another batch as {batch_id[:64]!r}")
    return spec


def encode_results(
    results: Iterable[tuple[int, bytes]], batch_id: str, keys: Sequence[bytes]
) -> Iterator[bytes]:
    """What calls of a batch have returned, by their indexes, as few values of moderate size.

    Args:
        results: Indexes and encoded results; `MOST_RESULTS_BYTES` is passed only by a large one.
    """
    some: list[int | bytes] = []
    size = 0
    for index, result in results:
        if some and size + len(result) > MOST_RESULTS_BYTES:
            yield sign(msgpack.packb([batch_id, *some]), keys, _OF_RESULTS)
            some, size = [], 0
        some += (index, result)
        size += len(result)
    if some:
        yield sign(msgpack.packb([batch_id, *some]), keys, _OF_RESULTS)


def decode_results(value: bytes, batch_id: str, keys: Sequence[bytes]) -> dict[int, bytes]:
    """Encoded results by index, from one value.

    Raises:
        BadSignature: It is unsigned, or signed with another key.
        InvalidMessage: It is damaged, or of another batch.
    """
    packed = verify(value, keys, _OF_RESULTS)
    try:
        its_id, *some = msgpack.unpackb(packed, max_map_len=0, max_ext_len=0)
        results = dict(zip(some[::2], some[1::2], strict=True))
    except (ValueError, TypeError, msgpack.UnpackException) as e:
        raise InvalidMessage(f"the broker holds damaged results of {batch_id[:64]!r}") from e
    kinds = {(type(index), type(result)) for index, result in results.items()}
    if its_id != batch_id or kinds != {(int, bytes)}:
        raise InvalidMessage(f"the broker holds other results as those of {batch_id[:64]!r}")
    return results


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """Which calls of a batch have ended, as the bits of two numbers."""

    done: int = 0
    failed: int = 0

    def after(self, ended: Iterable[tuple[int, bool]]) -> BatchCounts:
        """The counts after more calls have ended, each given by its index and whether it is done.

        A failed call may be done later, after a retry, but not the other way round.
        """
        done = failed = 0
        for index, is_done in ended:
            if is_done:
                done |= 1 << index
            else:
                failed |= 1 << index
        done |= self.done
        return replace(self, done=done, failed=(self.failed | failed) & ~done)

    def is_whole(self, total: int) -> bool:
        """Whether all are done."""
        return self.done.bit_count() == total

    def encode(self, batch_id: str, total: int, keys: Sequence[bytes]) -> bytes:
        """The bytes for the broker, signed like messages."""
        size = (total + 7) // 8
        parts = [batch_id, self.done.to_bytes(size, "big"), self.failed.to_bytes(size, "big")]
        packed: bytes = msgpack.packb(parts)
        return sign(packed, keys, _PURPOSE)


def decode_counts(
    value: bytes | None, batch_id: str, total: int, keys: Sequence[bytes]
) -> BatchCounts:
    """A batch's progress; none yet if nothing is stored.

    Raises:
        BadSignature: It is unsigned, or signed with another key.
        InvalidMessage: It is damaged, or of another batch.
    """
    if value is None:
        return BatchCounts()
    packed = verify(value, keys, _PURPOSE)
    try:
        its_id, done, failed = msgpack.unpackb(packed, **_LIMITS)
        counts = BatchCounts(int.from_bytes(done, "big"), int.from_bytes(failed, "big"))
    except (ValueError, TypeError, msgpack.UnpackException) as e:
        raise InvalidMessage(f"the broker holds a damaged batch {batch_id[:64]!r}") from e
    if its_id != batch_id or (counts.done | counts.failed) >> total:
        raise InvalidMessage(f"the broker holds another batch as {batch_id[:64]!r}")
    return counts

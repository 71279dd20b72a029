"""Where brokers that order delayed messages by time park them: at times that never come.

Each pause has its own such time, so that everything parked under its name is one range of the same
index. The time is derived from the name, so nothing must be remembered about a pause that is over.
"""

from __future__ import annotations

from hashlib import blake2b

#: The kind under which a queue's pauses are kept as values (`Remembering`).
PAUSES = "pauses"

#: If two pauses of a queue share a number, ending one wakes the other's messages; they are parked
#: again.
_NUMBER_BYTES = 3

#: Unix time in seconds; later than any message can be due (`durations`).
PARKED_SECONDS = float(2**40)


def pause_number(name: str) -> int:
    """The number that stands for a pause: 1 to 2**24."""
    digest = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=_NUMBER_BYTES).digest()
    return 1 + int.from_bytes(digest, "big")


def parked_until(name: str) -> float:
    """The Unix time, in seconds, at which messages parked under this name would be due."""
    return PARKED_SECONDS + pause_number(name)

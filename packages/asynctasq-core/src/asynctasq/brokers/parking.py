"""Where brokers keep parked messages that order what is delayed by time: at times that never come.

Each pause has a time of its own there, so that all that is parked under its name is a range of the
same index. It follows from the name, so that nothing has to be remembered of a pause that is over.
"""

from __future__ import annotations

from hashlib import blake2b

#: The kind of the values (`Remembering`) that are the pauses of a queue.
PAUSES = "pauses"

#: Pauses of a queue that share a number wake each other's messages, which are parked again.
_NUMBER_BYTES = 3

#: In seconds of Unix time; no message is due so late (`durations`).
PARKED_SECONDS = float(2**40)


def pause_number(name: str) -> int:
    """What stands for a pause: 1 to 2**24."""
    digest = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=_NUMBER_BYTES).digest()
    return 1 + int.from_bytes(digest, "big")


def parked_until(name: str) -> float:
    """The time at which what is parked under this name would be due."""
    return PARKED_SECONDS + pause_number(name)

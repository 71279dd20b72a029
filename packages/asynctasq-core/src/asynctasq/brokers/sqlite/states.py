"""The states of a message in a queue file; `schema.sql` explains them."""

LEASED, DELAYED, WAITING, DEAD, BEHIND, LIMITED, RATED = range(7)

WAITS = (WAITING, BEHIND, LIMITED, RATED)
"""States of messages that are not taken and wait only for their turn."""

POLICED, PAUSED = 1, 2
"""Bits of `queue.special`: the queue has messages with a priority or policy; it has pauses."""

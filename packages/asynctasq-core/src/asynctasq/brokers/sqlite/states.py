"""The states of a message in a queue file; `schema.sql` explains them."""

LEASED, DELAYED, WAITING, DEAD, BEHIND, LIMITED, RATED = range(7)

WAITS = (WAITING, BEHIND, LIMITED, RATED)
"""What nobody has taken and nothing but its turn keeps from being taken."""

POLICED, PAUSED = 1, 2
"""What makes a queue special, bit by bit: messages with a priority or a policy; pauses."""

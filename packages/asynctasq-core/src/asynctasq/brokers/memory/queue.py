"""One queue of the memory broker: where each message is, and every change of that.

The store calls everything here with its lock held.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from heapq import heappop, heappush

from .. import Action, Delivery, MessageState, Outcome, Outgoing, QueueStats
from .lines import Lines
from .messages import DUE, NEW, RETURNED, Order, Stand, StoredMessage
from .unique import UniqueKeys


class MemoryQueue:
    """One queue. Its heaps may hold stale entries for messages that have moved on.

    Args:
        clock: Gives Unix time in seconds.
        lease_clock: Gives monotonic seconds.
        serials: Gives growing numbers.

    Attributes:
        waiting: The messages that takes look at.
        delayed: `(due, serial, message)`.
        next_expiry: No running message's lease ends before this.
        pauses: By name. Replaced, never changed in place, since deliveries refer to it.
        parked: How many messages are parked.
    """

    def __init__(
        self,
        name: str,
        clock: Callable[[], float],
        lease_clock: Callable[[], float],
        serials: Iterator[int],
    ) -> None:
        self.name = name
        self.messages: dict[str, StoredMessage] = {}
        self.waiting: list[tuple[Order, StoredMessage]] = []
        self.delayed: list[tuple[float, int, StoredMessage]] = []
        self.running: dict[str, StoredMessage] = {}
        self.dead: dict[str, StoredMessage] = {}
        self.next_expiry = float("inf")
        self.pauses: dict[str, bytes] = {}
        self.parked = 0
        self.unique = UniqueKeys()
        self.lines = Lines(self._offer)
        self._clock = clock
        self._lease_clock = lease_clock
        self._serials = serials

    @property
    def is_paused(self) -> bool:
        """Whether the whole queue is paused."""
        return "" in self.pauses

    # --- looking ------------------------------------------------------------------------

    def held(self, delivery: Delivery) -> StoredMessage | None:
        """The message, if this delivery still holds its lease."""
        message = self.running.get(delivery.id)
        return message if message is not None and message.lease == delivery.tag else None

    def count(self) -> QueueStats:
        """How many messages are in each state."""
        states = Counter(message.state for message in self.messages.values())
        return QueueStats(
            self.name,
            waiting=states["waiting"],
            running=states["running"],
            delayed=states["delayed"],
            dead=states["dead"],
        )

    # --- time passes --------------------------------------------------------------------

    def catch_up(self) -> MemoryQueue:
        """Move whatever time has made ready to waiting; return the queue itself."""
        now, lease_now = self._clock(), self._lease_clock()
        while self.delayed and self.delayed[0][0] <= now:
            due, serial, message = heappop(self.delayed)
            if message.state == "delayed" and message.lease == serial:
                if message.has_line:
                    message.place = next(self._serials)
                    self.wait(message, NEW)
                else:
                    self.wait(message, DUE, due)
        if self.next_expiry <= lease_now:
            for message in [m for m in self.running.values() if m.at <= lease_now]:
                self.wait(message, RETURNED)
            self.next_expiry = min((m.at for m in self.running.values()), default=float("inf"))
        self.lines.open_rates(now)
        return self

    # --- messages come ------------------------------------------------------------------

    def put(self, new: Outgoing) -> str | None:
        """Add a message if its id is new; if its key is taken, return the id of the holder."""
        if new.policy is not None:
            self.catch_up()  # messages that are already due come first
        holder = self._holder(new)
        if holder is None and new.id not in self.messages:
            self._add(new)
        return holder

    def _holder(self, new: Outgoing) -> str | None:
        """The id of the message that blocks a new one, if any; removes one that it replaces."""
        unique = new.policy.unique if new.policy else None
        known = self.messages.get(new.id)
        holder = self.unique.holder(new.policy, self._clock())
        if unique is None or (known is not None and not unique.replaces):
            return None
        if holder == new.id and known is not None and known.state in ("waiting", "delayed"):
            self.forget(known)
            return None
        return holder or (new.id if known is not None else None)

    def _add(self, new: Outgoing) -> None:
        message = StoredMessage(
            new.queue, new.id, bytes(new.body), next(self._serials), new.priority, new.policy
        )
        self.messages[new.id] = message
        self.unique.take(message, self._clock())
        if new.due is None:
            self.wait(message, NEW)
        else:
            self._delay(message, new.due)

    # --- messages are taken -------------------------------------------------------------

    def take(self, limit: int, owner: str, until: float) -> list[Delivery]:
        """Lease up to `limit` waiting messages."""
        taken: list[Delivery] = []
        while self.waiting and len(taken) < limit and not self.is_paused:
            order, message = heappop(self.waiting)
            if self._may_run(message, order):
                taken.append(self._lease(message, owner, until))
        return taken

    def _may_run(self, message: StoredMessage, order: Order) -> bool:
        """Whether a message found in the heap is still waiting there and may run."""
        if message.state != "waiting" or message.order != order:
            return False
        return not message.has_line or (
            message.stand is Stand.OPEN and self.lines.may_run(message, self._clock())
        )

    def _lease(self, message: StoredMessage, owner: str, until: float) -> Delivery:
        lease = self._move(message, "running", until)
        self.running[message.id] = message
        self.next_expiry = min(self.next_expiry, until)
        message.owner = owner
        message.deliveries += 1
        pauses = self.pauses or None
        return Delivery(message.queue, message.id, message.body, message.deliveries, lease, pauses)

    # --- messages move on ---------------------------------------------------------------

    def apply(self, message: StoredMessage, outcome: Outcome) -> None:
        """Do what an outcome says with its message, except for keeping the result."""
        if outcome.body is not None:
            message.body = bytes(outcome.body)
        if outcome.action is Action.DONE:
            self.forget(message)
        elif outcome.action in (Action.RETRY, Action.POSTPONE):
            message.deliveries = 0 if outcome.action is Action.RETRY else message.deliveries - 1
            message.counted = False
            self._delay(message, self._clock() + outcome.delay)
        elif outcome.action is Action.PARK and outcome.pause in self.pauses:
            self._park(message, outcome.pause)
        elif outcome.action is Action.DEAD:
            message.info = bytes(outcome.info)
            self._move(message, "dead", self._clock())
            self.dead[message.id] = message
        else:
            self.release(message, undo=True)

    def release(self, message: StoredMessage, *, undo: bool) -> None:
        """Free a running message; with `undo`, do not count the delivery."""
        message.deliveries -= undo
        self.wait(message, RETURNED)

    def retry_dead(self, message: StoredMessage, body: bytes) -> None:
        """Move a dead letter back to waiting, as if it were new."""
        message.body, message.info, message.deliveries = bytes(body), b"", 0
        message.counted = False
        self.wait(message, NEW)

    def resume(self, pause: str) -> bool:
        """End a pause and free the messages parked under its name; return whether there were any.

        The empty name is that of the whole queue's pause, under which nothing is parked.
        """
        was_paused = pause in self.pauses
        self.pauses = {n: v for n, v in self.pauses.items() if n != pause}
        parked = [m for m in self.messages.values() if m.parked == pause] if pause else []
        for message in sorted(parked, key=lambda m: m.place):
            self.wait(message, RETURNED)
        return was_paused or bool(parked)

    def forget(self, message: StoredMessage) -> None:
        """Remove a message, whatever its state."""
        self._move(message, "dead", 0.0)
        del self.messages[message.id]

    def wait(self, message: StoredMessage, rank: int, place: float | None = None) -> None:
        """Make a message wait; by default it keeps its place."""
        serial = self._move(message, "waiting", 0.0)
        place = message.place if place is None else place
        message.order = (-message.priority, rank, place, serial)
        if message.has_line:
            self.lines.enter(message)
        else:
            self._offer(message)

    def _offer(self, message: StoredMessage) -> None:
        """Make a waiting message visible to takes."""
        heappush(self.waiting, (message.order, message))

    def _delay(self, message: StoredMessage, due: float) -> None:
        serial = self._move(message, "delayed", due)
        heappush(self.delayed, (due, serial, message))

    def _park(self, message: StoredMessage, pause: str) -> None:
        """Undo the delivery's effect on the key and the rate, and hold the message back."""
        message.deliveries -= 1
        if message.policy is not None:
            self.unique.take_again(message, self._clock())
            self.lines.uncount(message)
        self._move(message, "delayed", float("inf"))
        message.parked = pause
        self.parked += 1

    def _move(self, message: StoredMessage, state: MessageState, at: float) -> int:
        """Change the state; this invalidates earlier heap entries and leases."""
        self.running.pop(message.id, None)
        self.dead.pop(message.id, None)
        if message.parked:
            message.parked = ""
            self.parked -= 1
        was, message.state = message.state, state
        message.at, message.lease = at, next(self._serials)
        if message.policy is not None:
            self._note_move(message, was)
        return message.lease

    def _note_move(self, message: StoredMessage, was: MessageState) -> None:
        """Update the lines and keys when a message with a policy changes state."""
        if message.has_line:
            if was == "waiting":
                self.lines.leave(message)
            if was == "running":
                self.lines.end(message)
            if message.state == "running":
                self.lines.begin(message)
        if message.state == "running":
            self.unique.started(message)
        if message.state == "dead":
            self.unique.ended(message)

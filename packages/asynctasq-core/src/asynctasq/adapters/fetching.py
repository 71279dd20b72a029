"""References: what travels in place of a model instance, and how rows are fetched for many at once.

Owns three rules. All references of all messages taken together cost one `fetch_many` per adapter,
model, database and options. The same row twice in one message is one instance, loaded with all that
its places ask for; in two messages it is two. What one message's references do wrong fails that
message alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..errors import AdapterNotReady, ConfigurationError, ReferenceGone, ReferenceUnavailable
from ..tasks.annotations import Annotations, DeclaredLoading, Missing
from ..wire.reference import Ref

if TYPE_CHECKING:
    from .plugins import Adapter, Adapters


class _Gone:
    """Stands where a row no longer exists."""

    def __repr__(self) -> str:
        return "<gone>"


GONE = _Gone()


@dataclass(slots=True)
class Wanted:
    """The references of one message, in the order in which they stand in its payload.

    Attributes:
        rows: Each distinct row once.
        places: For each reference, which of `rows` it is.
        rules: For each reference, what happens if the row is gone.
        strictest: For each row, the strictest of its rules.
        in_task_scope: Whether some of them are fetched inside the task's scope only.
        error: Why the rows cannot be told, so that none is fetched.
    """

    rows: list[Ref] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    rules: list[Missing] = field(default_factory=list)
    strictest: list[Missing] = field(default_factory=list)
    in_task_scope: bool = False
    error: Exception | None = None
    _known: dict[Any, int] = field(default_factory=dict)

    def add(self, ref: Ref, options: tuple[Any, ...], rule: Missing) -> None:
        """Take in the next reference, with what its parameter's annotation says."""
        place = self._place_of(ref)
        if place == len(self.rows):
            self.rows.append(replace(ref, options=options) if options else ref)
            self.strictest.append(rule)
        elif (known := self.rows[place].options) is not options and options:
            self.rows[place] = replace(ref, options=_united(known, options))
        if rule != self.strictest[place]:
            self.strictest[place] = min(rule, self.strictest[place], key=_STRICTEST_FIRST.index)
        if options and not self.in_task_scope:
            self.in_task_scope = self.rows[place].in_task_scope
        self.places.append(place)
        self.rules.append(rule)

    def _place_of(self, ref: Ref) -> int:
        """Where the row stands in `rows`, or is to be appended."""
        if not self.rows:
            return 0  # and nearly always no other follows, to be told from this one
        if not self._known:
            self._known[_row(self.rows[0])] = 0
        return self._known.setdefault(_row(ref), len(self.rows))

    def instances(self, rows: Sequence[object]) -> list[object]:
        """What stands in each place: the row, or `None` where it is gone and that is allowed.

        Raises:
            ReferenceGone: A row is gone that its parameter needs; one that fails the task comes
                before one that only skips it.
        """
        for row in rows:
            if row is GONE:
                break
        else:
            return [rows[place] for place in self.places]
        gone = [i for i, place in enumerate(self.places) if rows[place] is GONE]
        for i in sorted(gone, key=lambda i: _STRICTEST_FIRST.index(self.rules[i])):
            if self.rules[i] != "none":
                raise _gone(self.rows[self.places[i]], self.rules[i])
        return [None if rows[place] is GONE else rows[place] for place in self.places]


_STRICTEST_FIRST: Sequence[Missing] = ("fail", "skip", "none")


def _row(ref: Ref) -> Hashable:
    """What tells rows apart; `type`, since 1 == True."""
    return (ref.orm, ref.model, ref.db, type(ref.pk), ref.pk)


def _gone(ref: Ref, rule: Missing) -> ReferenceGone:
    return ReferenceGone(f"{ref.model} {ref.pk!r} no longer exists", rule)


def _united(known: tuple[Any, ...], options: tuple[Any, ...]) -> tuple[Any, ...]:
    """All options of both, each once."""
    return tuple({_value(option): option for option in (*known, *options)}.values())


def _value(option: object) -> Hashable:
    """What tells options apart; those of ORMs need not be comparable, and are themselves then."""
    try:
        hash(option)
    except TypeError:
        return id(option)
    return option


@dataclass(slots=True)
class Fetched:
    """What came of one message's rows.

    Attributes:
        wanted: The rows that were asked for.
        rows: As in `Wanted.rows`: an instance, `GONE`, or `None` where it was not asked for yet.
        owners: The adapter of each; `None` for a lazy one, which no scope may touch.
        is_lazy: Whether some instances fetch themselves at first use.
        error: Why the message cannot run now.
    """

    wanted: Wanted
    rows: list[object]
    owners: list[Adapter | None]
    is_lazy: bool = False
    error: Exception | None = None

    def of(self, adapter: Adapter) -> list[object]:
        """The instances that are this adapter's, without lazy and missing ones."""
        if adapter not in self.owners:
            return []
        rows = zip(self.rows, self.owners, strict=True)
        return [r for r, owner in rows if owner is adapter and r is not None and r is not GONE]


@dataclass(slots=True)
class Group:
    """Rows that one `fetch_many` brings.

    Attributes:
        targets: For each reference, the indices of its message and of its row there.
    """

    adapter: Adapter
    refs: list[Ref] = field(default_factory=list)
    targets: list[tuple[int, int]] = field(default_factory=list)


async def fetch_in_scope(adapters: Adapters, wanted: Wanted) -> Fetched:
    """Fetch the rows of one message that its scope must hold, such as those to be locked.

    In this asyncio task: a lock's transaction has to be in the context of the task itself.
    """
    found = unfetched([wanted])
    for group in grouped(adapters, [wanted], found, in_task_scope=True):
        await fetch_group(group, found)
    return found[0]


async def fetch(adapters: Adapters, messages: Sequence[Wanted]) -> list[Fetched]:
    """Fetch the rows of all messages, but those for their scopes."""
    found = unfetched(messages)
    groups = grouped(adapters, messages, found, in_task_scope=False)
    await asyncio.gather(*(fetch_group(group, found) for group in groups))
    return found


async def fetch_result(
    adapters: Adapters, annotations: Annotations, refs: Sequence[Ref]
) -> list[object]:
    """The rows that a result refers to, loaded as its annotation says.

    Raises:
        ReferenceGone: A row was deleted, and its annotation allows no `None` for it.
        Exception: What stands in the way of the rows.
    """
    wanted = Wanted()
    for ref in refs:
        declared = annotations.declared.get("", DeclaredLoading())
        if "" in annotations.parts:
            declared = annotations.declared_for("", ref.model, adapters.is_model_class)
        # There is no task here in whose scope a row could be locked.
        options = tuple(o for o in declared.options if not getattr(o, "in_task_scope", False))
        wanted.add(ref, options, declared.on_missing or "fail")
    (fetched,) = await fetch(adapters, [wanted])
    if fetched.error is not None:
        raise fetched.error
    return wanted.instances(fetched.rows)


def unfetched(messages: Sequence[Wanted]) -> list[Fetched]:
    """Where the rows of these messages are to go."""
    return [Fetched(w, [None] * len(w.rows), [None] * len(w.rows), error=w.error) for w in messages]


def grouped(
    adapters: Adapters, messages: Sequence[Wanted], found: list[Fetched], *, in_task_scope: bool
) -> list[Group]:
    """The rows by what one `fetch_many` can bring; their owners are noted in `found`.

    Args:
        in_task_scope: Whether those that the scopes of tasks must hold are meant, or the others.
    """
    groups: dict[Any, Group] = {}
    values: dict[int, Hashable] = {}
    for i, wanted in enumerate(messages):
        if wanted.error is not None:
            continue
        rows = [(j, r) for j, r in enumerate(wanted.rows) if r.in_task_scope == in_task_scope]
        try:
            for j, ref in rows:
                options = ref.options and _known_value(ref.options, values)
                key = (ref.orm, ref.model, ref.db, options)
                if (group := groups.get(key)) is None:
                    group = groups[key] = Group(adapters.owner_of_reference(ref))
                found[i].owners[j] = group.adapter
                group.refs.append(ref)
                group.targets.append((i, j))
        except Exception as e:  # noqa: BLE001 - importing a model's module runs the application's code
            found[i].error = e
    return list(groups.values())


def _known_value(options: tuple[Any, ...], values: dict[int, Hashable]) -> Hashable:
    """The value of options that nearly always are the very ones of another row."""
    value = values.get(id(options))
    if value is None:
        value = values[id(options)] = tuple(map(_value, options))
    return value


async def fetch_group(group: Group, found: list[Fetched]) -> None:
    """Fetch rows into `found`; what an adapter raises becomes the error of its messages."""
    try:
        rows = await _ask(group.adapter, group.refs)
    except AdapterNotReady:
        for ref, (i, j) in zip(group.refs, group.targets, strict=True):
            found[i].rows[j] = _lazy(group.adapter, ref, found[i].wanted.strictest[j])
            found[i].owners[j] = None
            found[i].is_lazy = True
    except ReferenceUnavailable as e:
        for i, _ in group.targets:
            found[i].error = e
    except Exception as e:  # noqa: BLE001 - an adapter's code; it becomes the messages' outcome
        await _one_by_one(group, found, e)
    else:
        for row, (i, j) in zip(rows, group.targets, strict=True):
            found[i].rows[j] = GONE if row is None else row


async def _ask(adapter: Adapter, refs: list[Ref]) -> Sequence[object | None]:
    assert adapter.fetch_many is not None
    rows = await adapter.fetch_many(refs)
    if len(rows) != len(refs):
        raise RuntimeError(
            f"adapter {adapter.name!r}: fetch_many returned {len(rows)} for {len(refs)} references"
        )
    return rows


async def _one_by_one(group: Group, found: list[Fetched], error: Exception) -> None:
    """Find the messages that made the whole group fail, so that they fail alone."""
    messages = {i for i, _ in group.targets}
    if len(messages) == 1:
        found[messages.pop()].error = error
        return
    for message in messages:
        mine = Group(group.adapter)
        for ref, (i, j) in zip(group.refs, group.targets, strict=True):
            if i == message:
                mine.refs.append(ref)
                mine.targets.append((i, j))
        await fetch_group(mine, found)


def _lazy(adapter: Adapter, ref: Ref, rule: Missing) -> object:
    from .lazy import lazy_instance

    async def fetch_row() -> object:
        try:
            (row,) = await _ask(adapter, [ref])
        except AdapterNotReady as e:
            # The task's own omission: to wait, as for a database that is down, would be for ever.
            raise ConfigurationError(str(e)) from e
        if row is None:
            raise _gone(ref, rule)
        return row

    return lazy_instance(ref.model_class(), fetch_row, ref)

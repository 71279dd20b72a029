"""Fetches the rows that references name, for many messages at once.

Owns three rules. All references of all messages taken together cost one `fetch_many` per adapter,
model, database and options. A row that occurs twice in one message is one instance, loaded with
everything that either place asks for; in two messages it is two instances. A bad reference fails
only its own message.
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
    """Takes the place of a row that no longer exists."""

    def __repr__(self) -> str:
        return "<gone>"


GONE = _Gone()


@dataclass(slots=True)
class Wanted:
    """The references of one message, in the order they appear in its payload.

    Attributes:
        rows: Each distinct row once.
        places: For each reference, its index in `rows`.
        rules: For each reference, what happens if the row is gone.
        strictest: For each row, the strictest of its rules.
        in_task_scope: Whether some rows can only be fetched inside the task's scope.
        error: Why the references cannot be read; then no row is fetched.
    """

    rows: list[Ref] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    rules: list[Missing] = field(default_factory=list)
    strictest: list[Missing] = field(default_factory=list)
    in_task_scope: bool = False
    error: Exception | None = None
    _known: dict[Any, int] = field(default_factory=dict)

    def add(self, ref: Ref, options: tuple[Any, ...], rule: Missing) -> None:
        """Add the next reference, with the options and rule of its parameter's annotation."""
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
        """The row's index in `rows`, or the index at which to append it."""
        if not self.rows:
            return 0  # most messages have one reference, so do not build the index yet
        if not self._known:
            self._known[_row(self.rows[0])] = 0
        return self._known.setdefault(_row(ref), len(self.rows))

    def instances(self, rows: Sequence[object]) -> list[object]:
        """The row for each reference, or `None` where it is gone and the rule allows that.

        Raises:
            ReferenceGone: A row that a parameter needs is gone. A row that fails the task takes
                precedence over one that merely skips it.
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
    """The options of both, without duplicates."""
    return tuple({_value(option): option for option in (*known, *options)}.values())


def _value(option: object) -> Hashable:
    """A hashable stand-in for an option: an ORM's unhashable option is told apart by identity."""
    try:
        hash(option)
    except TypeError:
        return id(option)
    return option


@dataclass(slots=True)
class Fetched:
    """The rows fetched for one message.

    Attributes:
        wanted: The rows that were asked for.
        rows: Parallel to `Wanted.rows`: an instance, `GONE`, or `None` if not fetched yet.
        owners: Each row's adapter; `None` for a lazy instance, which no scope may touch.
        is_lazy: Whether some instances fetch themselves on first use.
        error: Why the message cannot run now.
    """

    wanted: Wanted
    rows: list[object]
    owners: list[Adapter | None]
    is_lazy: bool = False
    error: Exception | None = None

    def of(self, adapter: Adapter) -> list[object]:
        """This adapter's instances, without lazy and missing ones."""
        if adapter not in self.owners:
            return []
        rows = zip(self.rows, self.owners, strict=True)
        return [r for r, owner in rows if owner is adapter and r is not None and r is not GONE]


@dataclass(slots=True)
class Group:
    """Rows to fetch with one `fetch_many`.

    Attributes:
        targets: For each reference, the index of its message and of its row in that message.
    """

    adapter: Adapter
    refs: list[Ref] = field(default_factory=list)
    targets: list[tuple[int, int]] = field(default_factory=list)


async def fetch_in_scope(adapters: Adapters, wanted: Wanted) -> Fetched:
    """Fetch the rows of one message that its task's scope must hold, such as rows to lock.

    Runs in the current asyncio task: a lock's transaction must live in the task's own context.
    """
    found = unfetched([wanted])
    for group in grouped(adapters, [wanted], found, in_task_scope=True):
        await fetch_group(group, found)
    return found[0]


async def fetch(adapters: Adapters, messages: Sequence[Wanted]) -> list[Fetched]:
    """Fetch the rows of all messages, except those that must be fetched inside a task's scope."""
    found = unfetched(messages)
    groups = grouped(adapters, messages, found, in_task_scope=False)
    await asyncio.gather(*(fetch_group(group, found) for group in groups))
    return found


async def fetch_result(
    adapters: Adapters, annotations: Annotations, refs: Sequence[Ref]
) -> list[object]:
    """The rows that a result refers to, loaded as its annotation says.

    Raises:
        ReferenceGone: A row was deleted, and its annotation does not allow `None`.
        Exception: Whatever kept the rows from being fetched.
    """
    wanted = Wanted()
    for ref in refs:
        declared = annotations.declared.get("", DeclaredLoading())
        if "" in annotations.parts:
            declared = annotations.declared_for("", ref.model, adapters.is_model_class)
        # No task runs here, so there is no scope to lock a row in.
        options = tuple(o for o in declared.options if not getattr(o, "in_task_scope", False))
        wanted.add(ref, options, declared.on_missing or "fail")
    (fetched,) = await fetch(adapters, [wanted])
    if fetched.error is not None:
        raise fetched.error
    return wanted.instances(fetched.rows)


def unfetched(messages: Sequence[Wanted]) -> list[Fetched]:
    """Empty results for these messages, to be filled by `fetch_group`."""
    return [Fetched(w, [None] * len(w.rows), [None] * len(w.rows), error=w.error) for w in messages]


def grouped(
    adapters: Adapters, messages: Sequence[Wanted], found: list[Fetched], *, in_task_scope: bool
) -> list[Group]:
    """Group the rows that one `fetch_many` can fetch; note their owners in `found`.

    Args:
        in_task_scope: Whether to group the rows for tasks' scopes, or all others.
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
    """The options' hashable value, cached: most rows share the same options object."""
    value = values.get(id(options))
    if value is None:
        value = values[id(options)] = tuple(map(_value, options))
    return value


async def fetch_group(group: Group, found: list[Fetched]) -> None:
    """Fetch rows into `found`; an adapter's exception becomes its messages' error."""
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
    """Fetch each message's rows separately, so that only the culprits fail."""
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
            # The task failed to initialise its ORM; waiting, as in an outage, would never help.
            raise ConfigurationError(str(e)) from e
        if row is None:
            raise _gone(ref, rule)
        return row

    return lazy_instance(ref.model_class(), fetch_row, ref)

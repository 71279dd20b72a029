"""The hooks. Functions import Peewee themselves: they run once the application has imported it."""

import asyncio
import copy
import sys
import weakref
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import partial, reduce
from operator import and_, eq
from typing import Any

from asynctasq import (
    ConfigurationError,
    Database,
    DeferredSends,
    InvalidReference,
    Ref,
    ReferenceUnavailable,
    Run,
    Statement,
    Transaction,
    UnsavedModelError,
    class_path,
    hookimpl,
    uninterrupted,
)

from . import prefetch

_watched: weakref.WeakSet[Any] = weakref.WeakSet()  # databases


@hookimpl
def is_model(obj: object) -> bool:
    """Whether the type is one of Peewee's models."""
    peewee = sys.modules.get("peewee")
    return peewee is not None and issubclass(type(obj), peewee.Model)


@hookimpl
def to_ref(obj: Any) -> Ref:
    """The reference, by what Peewee holds; a key that was set but not saved is dirty."""
    model, key = type(obj), _key(obj)
    if None in key or obj._dirty.intersection(field.name for field in _fields(model)):
        raise UnsavedModelError(f"this {model.__name__} has no row yet: save it first")
    return Ref(class_path(model), key if len(key) > 1 else key[0])


def _fields(model: Any) -> list[Any]:
    key = model._meta.primary_key
    return [model._meta.fields[name] for name in getattr(key, "field_names", [key.name])]


def _key(row: Any) -> tuple[Any, ...]:
    return tuple(row.__data__.get(field.name) for field in _fields(type(row)))


@hookimpl
async def fetch_many(refs: Sequence[Ref]) -> list[object | None]:
    """The rows, fetched in a thread; each further instance of one row is a copy."""
    model: Any = refs[0].model_class()
    keys = [_checked(model, ref) for ref in refs]
    try:
        found = await asyncio.to_thread(_rows, model, list(dict.fromkeys(keys)), refs[0].options)
    except Exception as e:
        if not is_outage(e):
            raise
        raise ReferenceUnavailable(f"the database of {refs[0].model} gave no answer") from e
    originals = dict(found)
    return [originals.pop(key, None) or copy.deepcopy(found.get(key)) for key in keys]


@hookimpl
def is_outage(error: Exception) -> bool:
    """Whether the database does not answer; waiting brings no table or column that is missing."""
    peewee = sys.modules.get("peewee")
    away = (peewee.OperationalError, peewee.InterfaceError) if peewee else ()
    return isinstance(error, away) and "no such" not in str(error)


def _checked(model: Any, ref: Ref) -> tuple[Any, ...]:
    fields = _fields(model)
    key = (ref.pk,) if len(fields) == 1 or not isinstance(ref.pk, tuple) else ref.pk
    if ref.db is not None or len(key) != len(fields) or not all(map(_fits, fields, key)):
        raise InvalidReference(f"no row of {ref.model} can have this key or database")
    return key


def _fits(field: Any, value: Any) -> bool:
    """Whether the field keeps the value as it is, and every database can take it."""
    try:
        kept = field.python_value(field.db_value(value))
    except (ValueError, TypeError, ArithmeticError, AttributeError):
        return False
    integer = sys.modules["peewee"].IntegerField  # keeps what is no number as it is
    has_type = isinstance(getattr(field, "rel_field", field), integer) == (type(value) is int)
    if value is None or not has_type or (type(kept), kept) != (type(value), value):
        return False
    return -(2**63) <= value < 2**63 if isinstance(value, int) else "\0" not in str(value)


def _rows(model: Any, keys: list[Any], options: Sequence[Any]) -> dict[Any, Any]:
    import peewee

    related = [m for option in options if isinstance(option, prefetch) for m in option.models]
    fields, found = _fields(model), dict[Any, Any]()
    with _database(model).connection_context():
        for part in (keys[start : start + 200] for start in range(0, len(keys), 200)):
            each = [reduce(and_, map(eq, fields, key)) for key in part]
            condition = peewee.NodeList(each, " OR ", True)  # flat: nesting is limited
            if len(fields) == 1:
                condition = fields[0].in_([key[0] for key in part])
            query = model.select().where(condition)
            found |= {_key(row): row for row in peewee.prefetch(query, *related)}
    return found


def _database(model: Any) -> Any:
    db = model._meta.database
    return getattr(db, "obj", db)  # taken out of its proxy


class OpenTransaction:
    """Whether a transaction wrote, the dispatches made in it, where its savepoints began.

    Only Peewee's list of functions to call after the commit holds it: at a rollback it goes.
    """

    def __init__(self, db: Any, wrote: bool) -> None:
        self.db, self.wrote = db, wrote
        self.sends, self.savepoints = DeferredSends("peewee", _described(db)), dict[str, int]()
        transaction, known = db.top_transaction(), weakref.ref(self)
        transaction.asynctasq = known
        transaction.commit = partial(_commit, known, partial(type(transaction).commit, transaction))
        db.after_commit(self.send)

    def keep(self) -> None:
        """About to be committed: what waits becomes part of the transaction, where it can."""
        self.sends.keep(partial(_run, self.db))

    def send(self) -> None:
        """Committed: all leave in one round trip."""
        try:
            self.sends.send()
        except Exception:
            self.db.begin()  # Peewee takes this for a failed commit, which it rolls back
            raise

    def __del__(self) -> None:
        self.sends.drop()


def _commit(known: Any, commit: Any, *args: Any) -> None:
    if (waiting := known()) is not None:
        waiting.keep()
    commit(*args)


def _transaction(db: Any) -> OpenTransaction:
    known = getattr(db.top_transaction(), "asynctasq", None)
    # One that began before it was watched may have written.
    return (known and known()) or OpenTransaction(db, wrote=db not in _watched)


@hookimpl
def is_pending_write(obj: object) -> bool:
    """Whether the transaction open on the model's database wrote; which rows, nobody notes."""
    db = _database(type(obj))
    return db.in_transaction() and _transaction(db).wrote


@hookimpl
def after_commit(obj: object, send: Any) -> None:
    """Send when the model's database has committed, or the database itself."""
    db = obj if hasattr(obj, "top_transaction") else _database(type(obj))
    _transaction(db).sends.add(send)


@hookimpl
def configure() -> None:
    """Watch what is written through the databases of all models, from before the first write."""
    for db in _databases():
        _watch(db)


def _watch(db: Any) -> None:
    if db not in _watched:
        _watched.add(db)
        db.query_hooks.append(partial(_note, weakref.ref(db)))
        db._state = _State(db._state)


def _databases() -> list[Any]:
    models = sys.modules["peewee"].Model.__subclasses__() if "peewee" in sys.modules else []
    for model in models:  # which grows
        models += model.__subclasses__()
    return list(dict.fromkeys(db for m in models if (db := _database(m)) is not None))


def _note(watched: Any, event: Any) -> None:
    db = watched()
    if event.exception is not None or not hasattr(db.top_transaction(), "commit"):
        return  # no transaction, or one of `manual_commit()`, which after_commit() refuses
    words, transaction = event.sql.upper().rstrip("; ").split(), _transaction(db)
    if words[0] == "SAVEPOINT":
        transaction.savepoints[words[-1]] = transaction.sends.savepoint()
    elif words[0] == "ROLLBACK":
        transaction.sends.roll_back_to(transaction.savepoints.get(words[-1], 0))
    elif words[0] not in ("SELECT", "RELEASE", "PRAGMA"):
        transaction.wrote = True


_DIALECTS: dict[str, Any] = {
    "PostgresqlDatabase": "postgresql",
    "MySQLDatabase": "mysql",
    "SqliteDatabase": "sqlite",
}


def _described(db: Any) -> Database | None:
    known = (_DIALECTS.get(cls.__name__) for cls in type(db).__mro__)
    dialect = next(filter(None, known), None)
    return None if dialect is None else Database(f"{dialect} {db.database}", dialect, db)


def _run(db: Any, statement: Statement) -> Sequence[Sequence[Any]]:
    sql = statement.in_style("qmark" if db.param == "?" else "format")
    cursor = db.execute_sql(sql, tuple(statement.parameters))
    return cursor.fetchall() if cursor.description else ()


@hookimpl
def databases() -> list[Database]:
    """Those of all models."""
    return [known for db in _databases() if (known := _described(db)) is not None]


@hookimpl
@asynccontextmanager
async def own_transaction(database: Database) -> AsyncIterator[Run]:
    """On a new connection, which this context uses until the end, in every thread."""
    import peewee

    db = database.handle
    _watch(db)
    if db.param == "?":
        db.connect_params["check_same_thread"] = False
    outer, stack = db._state.here.get(), ExitStack()
    db._state.here.set(peewee._ConnectionState())
    try:
        for block in (db.connection_context(), db.atomic()):
            await uninterrupted(asyncio.to_thread(stack.enter_context, block))
        yield lambda statement: asyncio.to_thread(_run, db, statement)
    except BaseException as e:
        await uninterrupted(asyncio.to_thread(stack.__exit__, type(e), e, e.__traceback__))
        raise
    else:
        await uninterrupted(asyncio.to_thread(stack.close))
    finally:
        db._state.here.set(outer)


class _State:
    """What Peewee keeps for each thread, or in `own_transaction` for the context."""

    def __init__(self, of_threads: Any) -> None:
        vars(self).update(of_threads=of_threads, here=ContextVar("state", default=None))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.here.get() or self.of_threads, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.here.get() or self.of_threads, name, value)


@hookimpl
@asynccontextmanager
async def atomic_transaction(target: Any, refs: Sequence[Ref]) -> AsyncIterator[Transaction]:
    """The same around a task; an error of the database means that it is to run again."""
    models = [target] if isinstance(target, type) else [ref.model_class() for ref in refs]
    meant = {target} if isinstance(target, str) else {_database(model) for model in models}
    found = [d for d in databases() if not meant or meant & {d.name, d.handle}]
    if len(found) != 1:
        raise ConfigurationError(f"atomic={target!r} names {len(found)} databases; name a model")
    try:
        async with own_transaction(found[0]) as run:
            yield Transaction(run, found[0].handle, found[0])
    except Exception as e:
        if not is_outage(e):
            raise
        raise ReferenceUnavailable(f"{found[0].name} ended the transaction") from e


@hookimpl
@contextmanager
def thread_scope() -> Iterator[None]:
    """Close what a `def` task has connected in its thread, however it ends."""
    try:
        yield
    finally:
        for db in list(_watched):
            if not db.is_closed() and not db.in_transaction():  # an atomic task's ends later
                db.close()


@hookimpl
def adapter_suite() -> str:
    """What `asynctasq test-adapter peewee` runs."""
    return "asynctasq_peewee.suite:TestPeewee"

"""The transaction of an atomic task: that of the session to which its instances belong.

Owns the rule that the task cannot commit it: if it could and then failed, the next run would do the
committed part again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from asynctasq import (
    ConfigurationError,
    Ref,
    ReferenceUnavailable,
    Statement,
    Transaction,
    uninterrupted,
)
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from .commits import bind_atomic, engine_of, release_atomic
from .factories import AnySession, factory_of, sync_part
from .failures import gave_way, is_unavailable
from .loading import work_in
from .outbox import database_of, model_of, run
from .sessions import current_scope


@asynccontextmanager
async def atomic_transaction(target: object, refs: Sequence[Ref]) -> AsyncIterator[Transaction]:
    """Open the transaction; closing the task's sessions rolls it back unless it was committed."""
    model, factory = _chosen(target, refs)
    session = current_scope().session(factory)
    engine = engine_of(sync_part(session), model)
    database = database_of(engine)
    if database is None:
        raise ConfigurationError(
            f"an atomic task needs PostgreSQL, MySQL, MariaDB or SQLite, not {engine.dialect.name}"
        )

    async def run_in(statement: Statement) -> Sequence[Sequence[Any]]:
        try:
            return await work_in(session, _run, engine, statement)
        except Exception as e:
            if is_unavailable(e):
                raise _unavailable(e) from e
            raise

    bind_atomic(sync_part(session), engine)
    try:
        yield Transaction(run_in, session, database)
        release_atomic(sync_part(session))
        await uninterrupted(_commit(session))
    except Exception as e:
        if gave_way(e):
            raise _unavailable(e) from e
        raise


def _chosen(target: object, refs: Sequence[Ref]) -> tuple[type | None, Any]:
    """The model that names the database, if there is one, and its session factory."""
    if isinstance(target, type):
        return target, factory_of(target)
    if isinstance(target, str):
        model = model_of(target)
        return model, factory_of(model)
    models = [ref.model_class() for ref in refs]
    factories = {factory_of(model) for model in models}
    if len(factories) > 1:
        raise ConfigurationError(
            "its model instances have several session factories: name one of the models, as in "
            "atomic=Order"
        )
    return (models[0], factories.pop()) if factories else (None, current_scope().only_factory())


def _run(session: Session, engine: Engine, statement: Statement) -> Sequence[Sequence[Any]]:
    session.flush()
    return run(session.connection(bind_arguments={"bind": engine}), statement)


async def _commit(session: AnySession) -> None:
    if isinstance(session, AsyncSession):
        await session.commit()
    else:
        await asyncio.to_thread(session.commit)


def _unavailable(error: Exception) -> ReferenceUnavailable:
    kind = type(getattr(error, "orig", None) or error).__qualname__
    return ReferenceUnavailable(f"the database ended the transaction of the task ({kind})")

"""The tables that asynctasq keeps in the application's database, for the application's metadata.

Core owns their columns and every statement on them.
"""

from __future__ import annotations

from sqlalchemy import (
    BLANK_SCHEMA,
    Column,
    Double,
    Index,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
)
from sqlalchemy.dialects.mysql import LONGBLOB


def tables(metadata: MetaData) -> tuple[Table, Table]:
    """Add the tables of the outbox and of atomic tasks, so that `create_all` and Alembic see them.

    They go into the database's default schema. Calling this again adds nothing.

    Returns:
        `asynctasq_outbox` and `asynctasq_done`.
    """
    return _outbox(metadata), _done(metadata)


def _bytes() -> LargeBinary:
    return LargeBinary().with_variant(LONGBLOB(), "mysql", "mariadb")


def _outbox(metadata: MetaData) -> Table:
    name = "asynctasq_outbox"
    if name in metadata.tables:
        return metadata.tables[name]
    return Table(
        name,
        metadata,
        Column("id", String(64), primary_key=True),
        Column("queue", String(200), nullable=False),
        Column("body", _bytes(), nullable=False),
        Column("due", Double),
        Column("priority", SmallInteger, nullable=False),
        Column("policy", _bytes()),
        schema=BLANK_SCHEMA,
    )


def _done(metadata: MetaData) -> Table:
    name = "asynctasq_done"
    if name in metadata.tables:
        return metadata.tables[name]
    return Table(
        name,
        metadata,
        Column("id", String(64), primary_key=True),
        Column("result", _bytes()),
        Column("done_at", Double, nullable=False),
        Index("asynctasq_done_done_at", "done_at"),
        schema=BLANK_SCHEMA,
    )

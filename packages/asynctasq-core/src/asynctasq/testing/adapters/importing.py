"""An installed adapter costs nothing until its ORM is used."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from importlib.metadata import entry_points

import pytest

from asynctasq.adapters.plugins import GROUP

from .application import ApplicationUnderTest

#: Its arguments are the adapter's name and the packages that may be its ORM.
PROGRAM = """
import json, sys
from asynctasq.adapters.plugins import installed
found = installed()
assert sys.argv[1] in found.loaded, found.reports
print(json.dumps(sorted(name for name in sys.modules if "." not in name)))
"""


class ImportingTests(ApplicationUnderTest):
    """What loading an adapter imports."""

    async def test_loading_the_adapter_imports_no_orm(self) -> None:
        row = await self.call(self.save, "Ada")
        orm = {base.__module__.partition(".")[0] for base in type(row).__mro__[1:]}
        ours = {"asynctasq", *map(_package, (type(self), type(row))), self._plugin()}
        orm -= ours | set(sys.stdlib_module_names)
        if not orm:
            pytest.skip("its models come from no package of an ORM")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", PROGRAM, self.adapter, *sorted(orm)),
            env={**os.environ, "ASYNCTASQ_PLUGINS": self.adapter},
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0
        imported = set(json.loads(output))
        assert imported & orm == set()

    def _plugin(self) -> str:
        """The package of the hooks."""
        (entry_point,) = (e for e in entry_points(group=GROUP) if e.name == self.adapter)
        return entry_point.module.partition(".")[0]


def _package(cls: type) -> str:
    return cls.__module__.partition(".")[0]

"""The program that runs a page's blocks: one namespace, then a worker after each block.

Its argument is a JSON file: the name of the module that the blocks make up, the context that they
need, and their code. What each block and its tasks print goes into a JSON list on the last line.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import io
import json
import sys
import types
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any


async def run(name: str, contexts: list[str], codes: list[str]) -> list[str]:
    """The output of each block in turn."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    sys.path.insert(0, str(Path(__file__).parent / "contexts"))
    made = [importlib.import_module(context) for context in dict.fromkeys(contexts)]
    for each in made:
        await each.setup()
        vars(module).update({k: v for k, v in vars(each).items() if not k.startswith("_")})
    outputs = [await _block(vars(module), c, f"{name}, block {i}") for i, c in enumerate(codes)]
    for each in made:
        await each.teardown()
    return outputs


async def _block(namespace: dict[str, Any], code: str, title: str) -> str:
    from asynctasq import Worker
    from asynctasq.app import current

    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    with redirect_stdout(io.StringIO()) as output:
        # Not the flags of this file: its `annotations` would reach the block.
        result = eval(compile(code, title, "exec", flags, dont_inherit=True), namespace)
        if inspect.iscoroutine(result):
            await result
        if current().config.driver in ("memory", "postgres"):
            await Worker(burst=True, concurrency=1).run()
    return output.getvalue()


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text())
    print("\n" + json.dumps(asyncio.run(run(given["name"], given["contexts"], given["codes"]))))

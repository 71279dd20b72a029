"""A database for each run of the tests; set before the shop is imported."""

from __future__ import annotations

import os
import tempfile

_folder = tempfile.TemporaryDirectory(prefix="shop-")
os.environ["SHOP_DATABASE"] = f"sqlite+aiosqlite:///{_folder.name}/shop.db"

"""What `asynctasq doctor` says about Tortoise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from asynctasq import Finding, init
from asynctasq_tortoise import adapter

from .conftest import MODULES


async def findings(**config: Any) -> list[Finding]:
    init({"driver": "memory"}, tortoise_config={"modules": MODULES, "use_tz": True, **config})
    return list(await adapter.check())


def about(found: list[Finding], subject: str) -> Finding:
    return next(f for f in found if f.subject == subject)


def test_an_application_without_tortoise_has_no_findings() -> None:
    code = (
        "import asyncio; from asynctasq_tortoise import adapter as a; print(asyncio.run(a.check()))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


async def test_no_tortoise_config_is_a_warning() -> None:
    init({"driver": "memory"})
    (found,) = await adapter.check()
    assert (found.level, found.subject) == ("warning", "tortoise")
    assert "tortoise_config" in found.advice


async def test_a_database_that_answers_is_ok_and_closed_again(url: str) -> None:
    found = await findings(db_url=url, maxsize=20)
    assert about(found, "tortoise connection default").level == "ok"
    assert [f for f in found if f.level == "error"] == []


@pytest.mark.parametrize("url", ["asyncpg", "mysql"], indirect=True)
async def test_pool_figures_are_shown(url: str) -> None:
    found = await findings(db_url=url, minsize=2, maxsize=20)
    shown = [f for f in found if f.subject == "tortoise connection default pool"]
    assert shown[0].text == "minsize 2, maxsize 20 in each worker process"
    assert " connections in use" in shown[1].text
    assert shown[1].level == "ok"


async def test_a_small_pool_and_one_too_large_are_warnings(postgres_url: str) -> None:
    small = about((await findings(db_url=postgres_url))[2:], "tortoise connection default pool")
    assert small.level == "warning"
    assert "maxsize" in small.advice
    large = await findings(db_url=postgres_url, maxsize=10_000)
    assert "lower maxsize" in large[2].advice


@pytest.mark.parametrize("url", ["mysql"], indirect=True)
async def test_connections_of_mysql_that_are_never_renewed_are_a_warning(url: str) -> None:
    found = await findings(db_url=url)
    assert any("pool_recycle" in f.advice for f in found)
    found = await findings(db_url=url + "?pool_recycle=3600")
    assert not any("pool_recycle" in f.advice for f in found)


async def test_a_database_that_is_down_is_an_error_without_its_password() -> None:
    found = await findings(db_url="asyncpg://nobody:secret-word@127.0.0.1:1/nothing")
    down = about(found, "tortoise connection default")
    assert down.level == "error"
    assert "does not answer" in down.text
    assert "secret-word" not in str(found)


async def test_a_database_in_memory_is_an_error() -> None:
    found = await findings(db_url="sqlite://:memory:")
    assert "each process" in about(found, "tortoise connection default").text


async def test_a_module_that_cannot_be_imported_is_named(sqlite_url: str) -> None:
    (found,) = await findings(db_url=sqlite_url, modules={"models": ["shop.modles"]})
    assert found.level == "error"
    assert "shop.modles cannot be imported" in found.text


@pytest.mark.filterwarnings("ignore:Module:RuntimeWarning")
async def test_a_module_without_models_is_an_error(sqlite_url: str) -> None:
    found = await findings(db_url=sqlite_url, modules={"models": ["tortoise_shop"]})
    assert "no models" in about(found, "tortoise modules").text


async def test_a_time_zone_other_than_utc_is_a_warning(sqlite_url: str) -> None:
    found = await findings(db_url=sqlite_url, timezone="Europe/Berlin")
    assert "timezone='UTC'" in about(found, "tortoise time zone").advice
    found = await findings(db_url=sqlite_url, use_tz=False)
    assert "use_tz=True" in about(found, "tortoise time zone").advice
    found = await findings(db_url=sqlite_url)
    assert not [f for f in found if f.subject == "tortoise time zone"]


async def test_foreign_keys_without_index_are_named(tmp_path: Path) -> None:
    found = await findings(db_url=f"sqlite://{tmp_path}/x.db")
    indexes = [f.text for f in found if f.subject == "tortoise indexes"]
    assert indexes == ["Order: no index on user"]
    (advice,) = (f.advice for f in found if f.subject == "tortoise indexes")
    assert advice.startswith("add db_index=True")  # `index=True` is deprecated

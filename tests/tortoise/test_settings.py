"""`tortoise_config`: what it may hold, and what becomes of pool sizes."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from asynctasq import ConfigurationError, init
from asynctasq_tortoise import lifecycle
from asynctasq_tortoise.settings import init_arguments
from tortoise import Tortoise
from tortoise_shop.models import User

from .conftest import MODULES, Initialise

POOLED = ["postgres", "asyncpg", "psycopg", "mysql"]
SOURCE = {"db_url": "sqlite://:memory:", "modules": MODULES}


def credentials(arguments: dict[str, Any], alias: str = "default") -> dict[str, Any]:
    found: dict[str, Any] = arguments["config"]["connections"][alias]["credentials"]
    return found


def test_every_argument_of_tortoise_init_is_a_key() -> None:
    for name in inspect.signature(Tortoise.init).parameters:
        if name not in ("config", "config_file", "db_url"):
            init(driver="memory", tortoise_config={**SOURCE, name: None})


@pytest.mark.skipif(not hasattr(Tortoise, "_get_context"), reason="0.x has no contexts")
async def test_a_fallback_for_all_contexts_serves_the_worker(sqlite_url: str) -> None:
    source = {"db_url": sqlite_url, "modules": MODULES, "_enable_global_fallback": True}
    init(driver="memory", tortoise_config=source)
    await lifecycle.start_worker()
    await Tortoise.generate_schemas()
    assert await User.all().count() == 0
    await lifecycle.stop_worker()
    assert not lifecycle.is_initialised()


@pytest.mark.parametrize("scheme", POOLED)
def test_pool_sizes_beside_the_url_become_credentials(scheme: str) -> None:
    arguments = init_arguments(
        {
            "db_url": f"{scheme}://user:pass@localhost/db",
            "modules": MODULES,
            "use_tz": True,
            "timezone": "UTC",
            "minsize": 5,
            "maxsize": 20,
        }
    )
    found = credentials(arguments)
    assert (found["minsize"], found["maxsize"]) == (5, 20)
    assert (found["user"], found["password"], found["database"]) == ("user", "pass", "db")
    assert arguments["use_tz"] is True
    assert arguments["timezone"] == "UTC"
    assert "db_url" not in arguments


def test_connection_config_has_the_names_of_the_specification() -> None:
    pool = {"min_pool_size": 5, "max_pool_size": 20, "command_timeout": 9}
    url = "postgres://user@localhost/db?minsize=1"
    found = credentials(init_arguments({"db_url": url, "connection_config": pool}))
    assert (found["minsize"], found["maxsize"], found["command_timeout"]) == (5, 20, 9)


def test_every_connection_with_a_pool_gets_the_sizes_and_sqlite_does_not() -> None:
    config = {
        "connections": {
            "default": "postgres://user@localhost/db",
            "archive": {"engine": "tortoise.backends.sqlite", "credentials": {"file_path": "x"}},
        },
        "apps": {"models": {"models": ["tortoise_shop.models"]}},
        "maxsize": 9,
    }
    arguments = init_arguments(config)
    assert credentials(arguments)["maxsize"] == 9
    assert credentials(arguments, "archive") == {"file_path": "x"}
    assert "maxsize" not in arguments["config"]
    assert arguments["config"]["apps"] == config["apps"]


def test_without_pool_sizes_the_arguments_stay_as_they_are() -> None:
    assert init_arguments(SOURCE) == SOURCE


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**SOURCE, "db_urls": "x"}, "did you mean 'db_url'"),
        ({**SOURCE, "zzz": 1}, "Tortoise.init has no such argument"),
        ({"modules": MODULES}, "exactly one of db_url"),
        ({**SOURCE, "config": {"connections": {}}}, "exactly one of db_url"),
        ({**SOURCE, "minsize": 9, "maxsize": 3}, "minsize 9 and maxsize 3"),
        ({**SOURCE, "minsize": "many"}, "whole numbers"),
        ("sqlite://x", "must be a dict"),
    ],
)
def test_what_cannot_work_is_refused_by_init(config: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        init({"driver": "memory"}, tortoise_config=config)


def test_pool_sizes_beside_a_file_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="config_file"):
        init_arguments({"config_file": "tortoise.json", "maxsize": 3})


def test_init_without_tortoise_config_forgets_an_earlier_one() -> None:
    init({"driver": "memory"}, tortoise_config=SOURCE)
    init({"driver": "memory"})
    assert lifecycle.configured() is None


async def test_tortoise_itself_takes_pool_sizes_once_the_adapter_is_loaded(
    postgres_url: str, initialise: Initialise
) -> None:
    import tortoise

    sizes = {"min_pool_size": 2, "max_pool_size": 7}
    await initialise(db_url=postgres_url, connection_config=sizes)
    client = tortoise.connections.get("default")
    assert (client.pool_minsize, client.pool_maxsize) == (2, 7)


async def test_tortoise_still_refuses_what_it_does_not_know(initialise: Initialise) -> None:
    with pytest.raises(TypeError, match="pool"):
        await initialise(db_url="sqlite://:memory:", pool=3)


async def test_a_configuration_file_is_used(tmp_path: Path, initialise: Initialise) -> None:
    file = tmp_path / "tortoise.json"
    apps = '{"models": {"models": ["tortoise_shop.models"], "default_connection": "default"}}'
    connections = f'{{"default": "sqlite://{tmp_path}/x.db"}}'
    file.write_text(f'{{"connections": {connections}, "apps": {apps}}}')
    init({"driver": "memory"}, tortoise_config={"config_file": str(file)})
    await lifecycle.ensure_initialised()
    assert lifecycle.is_initialised()

"""Configuration: argument, then environment, then default, and nothing silently ignored."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import asynctasq
import pytest
from asynctasq import (
    Config,
    ConfigurationError,
    RedisConfig,
    Retry,
    SQLiteConfig,
    Worker,
    load_config,
    task,
)
from asynctasq.app import App, current
from asynctasq.brokers.opening import installed_drivers
from asynctasq.brokers.redis.address import Address

KEY = "a secret of at least 16 bytes"
DEFAULT_URL = "redis://localhost:6379/0"


def load(environ: dict[str, str] | None = None, /, **options: Any) -> Config:
    return Config.load(options, installed_drivers().sections, ["toy_option"], environ or {})


def test_an_argument_wins_over_the_environment_and_that_over_the_default() -> None:
    environ = {"ASYNCTASQ_MAX_DELIVERIES": "7", "ASYNCTASQ_DRIVER": "memory"}
    assert load().max_deliveries == 5
    assert load(environ).max_deliveries == 7
    assert load(environ, max_deliveries=9).max_deliveries == 9
    assert load(environ).driver == "memory"
    assert load(environ, driver="sqlite").driver == "sqlite"


def test_without_configuration_the_embedded_broker_is_used() -> None:
    assert load().driver == "sqlite"
    assert str(load().sections["sqlite"].path) == ".asynctasq/queue.db"
    assert load({"ASYNCTASQ_SQLITE_PATH": "/q.db"}).sections["sqlite"].path == "/q.db"


@pytest.mark.parametrize(
    "section",
    [
        DEFAULT_URL,
        {"url": DEFAULT_URL},
        {},
        RedisConfig(url=DEFAULT_URL),
        RedisConfig(),
        "redis://h",
    ],
    ids=repr,
)
def test_naming_a_redis_selects_it_wherever_it_is(section: Any) -> None:
    assert load(redis=section).driver == "redis"
    assert load({"ASYNCTASQ_SQLITE_PATH": "/q.db"}, redis=section).driver == "redis"
    assert load(redis=section, driver="memory").driver == "memory"
    assert load({"ASYNCTASQ_DRIVER": "memory"}, redis=section).driver == "memory"


def test_of_two_brokers_in_the_environment_the_driver_says_which() -> None:
    environ = {"ASYNCTASQ_REDIS_URL": "redis://h", "ASYNCTASQ_POSTGRES_URL": "postgresql://h/d"}
    with pytest.raises(ConfigurationError, match="say which of"):
        load(environ)
    assert load({**environ, "ASYNCTASQ_DRIVER": "redis"}).driver == "redis"
    assert load(environ, driver="postgres").driver == "postgres"


@pytest.mark.parametrize(
    ("variable", "text"), [("URL", DEFAULT_URL), ("URL", "redis://h"), ("KEY_PREFIX", "asynctasq")]
)
def test_a_variable_of_redis_selects_it(variable: str, text: str) -> None:
    environ = {f"ASYNCTASQ_REDIS_{variable}": text}
    assert load(environ).driver == "redis"
    assert load(environ, driver="memory").driver == "memory"


@pytest.mark.parametrize("section", ["/q.db", {"path": "/q.db"}, SQLiteConfig()], ids=repr)
def test_a_named_file_wins_over_a_redis_in_the_environment(section: Any) -> None:
    assert load({"ASYNCTASQ_REDIS_URL": "redis://h"}, sqlite=section).driver == "sqlite"


def test_of_two_named_sections_redis_is_taken() -> None:
    assert load(redis={}, sqlite="/q.db").driver == "redis"
    assert load(redis=None, sqlite=None).driver == "sqlite"


def test_sections_take_an_object_a_mapping_or_the_main_value() -> None:
    assert load(redis=RedisConfig(url="redis://h")).sections["redis"].url == "redis://h"
    assert load(redis={"url": "redis://h", "timeout": 1.5}).sections["redis"].timeout == 1.5
    assert load(redis="redis://h").sections["redis"].url == "redis://h"
    assert load(sqlite=Path("/q")).sections["sqlite"].path == Path("/q")


@pytest.mark.parametrize(
    "given", [RedisConfig(url="redis://h"), {"url": "redis://h"}, "redis://h"], ids=repr
)
def test_what_a_section_leaves_out_comes_from_the_environment(given: Any) -> None:
    environ = {
        "ASYNCTASQ_REDIS_URL": "redis://other",
        "ASYNCTASQ_REDIS_KEY_PREFIX": "p",
        "ASYNCTASQ_REDIS_CLUSTER": "yes",
    }
    section = load(environ, redis=given).sections["redis"]
    assert (section.key_prefix, section.cluster, section.url) == ("p", True, "redis://h")


def test_an_option_and_a_key_of_the_mapping_are_the_same(configure: Callable[..., App]) -> None:
    assert configure(max_deliveries=3).config.max_deliveries == 3
    asynctasq.init({"driver": "memory", "max_deliveries": 4}, max_deliveries=6)
    assert current().config.max_deliveries == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drivr": 1}, "unknown option 'drivr': did you mean 'driver'"),
        ({"signing_keys": KEY}, "did you mean 'signing_key'"),
        ({"toy_opton": 1}, "did you mean 'toy_option'"),
        ({"xyzzy": 1}, "known are .*driver.*toy_option"),
        ({"tortoise_config": {}}, "asynctasq-tortoise, which is not installed"),
        ({"sqlalchemy_engine": 1}, "asynctasq-sqlalchemy, which is not installed"),
        ({"driver": "rabbit"}, "driver must be one of memory, .*redis, sqlite, not 'rabbit'"),
        ({"redis": {"ulr": "x"}}, "RedisConfig: unknown option 'ulr': did you mean 'url'"),
        ({"redis": 7}, "RedisConfig expected, not int"),
        ({"sqlite": {"pth": "x"}}, "SQLiteConfig: unknown option 'pth': did you mean 'path'"),
        ({"max_deliveries": 0}, "max_deliveries must be a whole number of at least 1"),
        ({"max_deliveries": True}, "max_deliveries must be a whole number of at least 1"),
        ({"max_payload_bytes": "1"}, "max_payload_bytes must be a whole number"),
        ({"driver": ["redis"]}, "driver must be one of memory, .*redis, sqlite"),
        ({"redis": {"timeout": -1}}, "RedisConfig: timeout must be seconds above 0, not -1"),
        ({"redis": {"timeout": "abc"}}, "RedisConfig: timeout must be seconds above 0, not 'abc'"),
        ({"redis": RedisConfig(timeout=-1)}, "RedisConfig: timeout must be seconds above 0"),
        ({"redis": {"connect_timeout": float("inf")}}, "connect_timeout must be seconds above 0"),
        ({"redis": {"cluster": "no"}}, "cluster must be True or False, not 'no'"),
        ({"redis": {"password": b"hush"}}, "password must be a text or None, not this bytes"),
        ({"redis": {"sentinels": 7}}, "sentinels must be a text or several, not 7"),
        ({"sqlite": {"poll_interval": "x"}}, "poll_interval must be seconds above 0, not 'x'"),
        ({"sqlite": {"synchronous": "ful"}}, "must be one of normal, full, not 'ful'"),
        ({"sqlite": {"path": 7}}, "SQLiteConfig: path must be a text or a path, not 7"),
        ({"imports": 5}, "imports must be a text or several, not 5"),
        ({"imports": ["a", 5]}, "imports must be a text or several"),
        ({"task_defaults": 5}, "task_defaults must be a mapping, not 5"),
        ({"signing_key": 5}, "signing_key must be bytes or several, not this int"),
        ({"signing_key": [16]}, "signing_key must be bytes or several, not this tuple"),
        ({"signing_key": ""}, "16 to 64 bytes"),
        ({"signing_key": "short"}, "16 to 64 bytes"),
        ({"signing_key": [KEY, b""]}, "16 to 64 bytes"),
        ({"signing_key": b"x" * 65}, "16 to 64 bytes"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else None,
)
def test_what_cannot_be_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load(**options)


@pytest.mark.parametrize(
    ("defaults", "message"),
    [
        ({"max_atempts": 1}, "unknown task option 'max_atempts': did you mean 'max_attempts'"),
        ({"timeout": 0}, "timeout must be seconds above 0"),
        ({"retry_delay": Decimal(1)}, "retry_delay must be seconds, 0 to 1,000,000,000, not Dec"),
        ({"retry_delay": True}, "retry_delay must be seconds"),
        ({"max_attempts": True}, "max_attempts must be a whole number"),
        ({"queue": 5}, "queue must be 1 to 200 printable characters"),
        ({"on_missing": ["none"]}, 'on_missing must be "fail" or "skip" or "none"'),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else None,
)
def test_defaults_of_tasks_are_checked_with_the_configuration(
    defaults: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"^task_defaults: {message}"):
        load_config({"driver": "memory", "task_defaults": defaults})


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("MAX_DELIVERIES", "many"),
        ("REDIS_TIMEOUT", "soon"),
        ("REDIS_CLUSTER", "perhaps"),
        ("SQLITE_BUSY_TIMEOUT", "x"),
        ("TASK_DEFAULTS", "{}"),
        ("TOY_OPTION", "1"),
        ("REDIS", "redis://h"),
        ("REDIS_URI", "redis://h"),
        ("REDIS_PASS", "hush"),
        ("SQLITE_PATHS", "/q.db"),
        ("MAX_DELIVERYS", "7"),
        ("PLUGIN", "django"),
    ],
)
def test_a_variable_that_cannot_be_read_is_named(variable: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"ASYNCTASQ_{variable}\b") as caught:
        load({f"ASYNCTASQ_{variable}": text})
    assert "hush" not in str(caught.value)


def test_a_misspelt_variable_names_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="did you mean ASYNCTASQ_REDIS_PASSWORD"):
        load({"ASYNCTASQ_REDIS_PASSWD": "hush"})
    with pytest.raises(ConfigurationError, match="did you mean ASYNCTASQ_REDIS_USERNAME"):
        load({"ASYNCTASQ_REDIS_USER": "me"})
    with pytest.raises(ConfigurationError, match=r"ASYNCTASQ_SQLITE: .*ASYNCTASQ_SQLITE_PATH"):
        load({"ASYNCTASQ_SQLITE": "/q.db"})


def test_variables_of_others_do_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    unrelated = ("PLUGINS", "TEST_REDIS_URL", "TEST_POSTGRES_URL", "FUZZ", "KILL_ROUNDS", "X")
    assert repr(load({f"ASYNCTASQ_{name}": "1" for name in unrelated})) == repr(load())
    assert caplog.text == ""


@pytest.mark.parametrize("name", ["REDIS_HOST", "REDIS_PORT", "REDIS_SERVICE_HOST", "SQLITE_FILE"])
def test_a_variable_that_only_begins_as_ours_is_warned_of(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    # Kubernetes sets such ones for each service; they must not stop a worker, nor select a driver.
    assert repr(load({f"ASYNCTASQ_{name}": "1"})) == repr(load())
    assert f"ASYNCTASQ_{name} is ignored" in caplog.text


def test_lists_come_from_the_environment_with_commas() -> None:
    environ = {"ASYNCTASQ_IMPORTS": "a.b, c", "ASYNCTASQ_SIGNING_KEY": f"{KEY},{KEY}2"}
    assert load(environ).imports == ("a.b", "c")
    assert load(environ).signing_key == (KEY.encode(), f"{KEY}2".encode())
    assert load(imports="x,y").imports == ("x", "y")
    assert load(model_modules=["a"]).model_modules == ("a",)
    assert load(redis={"sentinels": "a:1, b:2"}).sections["redis"].sentinels == ("a:1", "b:2")
    assert load(redis=RedisConfig(sentinels=["a:1"])).sections["redis"].sentinels == ("a:1",)  # type: ignore[arg-type]
    assert load(signing_key=KEY.encode()).signing_key == (KEY.encode(),)


def test_secrets_are_not_shown() -> None:
    config = load(
        signing_key=KEY,
        redis={"url": "redis://:hush@h", "password": "hush", "sentinel_password": "hush"},
        toy_option="hush",
    )
    assert "hush" not in repr(config)
    assert KEY not in repr(config)
    with pytest.raises(ConfigurationError) as caught:
        load(signing_key="hush")
    assert "hush" not in str(caught.value)


def test_options_of_adapters_are_kept_apart() -> None:
    assert load(toy_option=1).adapter_options == {"toy_option": 1}


@pytest.mark.parametrize(
    "options",
    [
        {"name": ""},
        {"name": 7},
        {"queue": ""},
        {"queue": "a b"},
        {"queue": "a,b"},
        {"queue": "{a}"},
        {"queue": None},
        {"queue": "x" * 201},
        {"max_attempts": 0},
        {"max_attempts": 1.5},
        {"max_attempts": "3"},
        {"retry_delay": -1},
        {"retry_delay": float("nan")},
        {"retry_delay": float("inf")},
        {"retry_delay": None},
        {"retry_strategy": "linear"},
        {"retry_jitter": "yes"},
        {"retry_on": "ValueError"},
        {"retry_on": [ValueError]},
        {"retry_on": (ValueError, int)},
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": float("inf")},
        {"timeout": "5"},
        {"process": "yes"},
        {"on_missing": "explode"},
        {"result_ttl": 0},
        {"result_ttl": float("nan")},
        {"retries": 3},
    ],
    ids=str,
)
def test_task_options_that_cannot_work_are_refused_where_they_are_written(
    options: dict[str, Any],
) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):

        @task(**options)
        async def refused() -> None: ...


def test_process_is_for_plain_functions() -> None:
    with pytest.raises(ConfigurationError, match="process=True is for `def`"):

        @task(process=True)
        async def refused() -> None: ...


def test_functions_with_yield_cannot_be_tasks() -> None:
    with pytest.raises(ConfigurationError, match="yield"):

        @task
        def numbers() -> Any:
            yield 1

    with pytest.raises(ConfigurationError, match="yield"):

        @task
        async def more() -> Any:
            yield 1


@pytest.mark.parametrize("delay", [-1.0, float("nan"), float("inf")])
def test_a_retry_after_impossible_seconds_is_refused(delay: float) -> None:
    with pytest.raises(ValueError, match="seconds"):
        Retry(delay=delay)


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"lease": 0}, {"grace": -1}], ids=str)
def test_a_worker_of_impossible_size_is_refused(app: App, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="concurrency must be at least 1"):
        Worker(**options)


def test_the_default_section_objects_are_those_of_the_documentation() -> None:
    assert load().sections["redis"] == RedisConfig()
    assert load().sections["sqlite"] == SQLiteConfig()
    assert RedisConfig().url == "redis://localhost:6379/0"


@pytest.mark.parametrize("name", [asynctasq.init, asynctasq.load_config])
@pytest.mark.parametrize(
    "options", [{"redis": "http://localhost"}, {"redis": "localhost"}, {"sqlite": ":memory:"}]
)
def test_an_address_that_is_none_is_refused_where_it_is_given(
    name: Callable[..., Config], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asynctasq.app, "_current", None)
    with pytest.raises(ConfigurationError, match=r"redis\.url: |cannot be shared"):
        name(options)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://host:6379", "the scheme http:// is none of Redis; write redis://"),
        ("host:6379", "it has no scheme; write redis://"),
        ("", "it has no scheme"),
        ("redis:host", "it has no scheme"),
        ("redis://host:port", "the port is not a number"),
        ("redis://host:99999", "the port is not a number up to 65535"),
        ("redis://host:0", "port 0"),
        ("redis://user:s3cret", "the port is not a number"),
        ("redis://[::1", "the port is not a number"),
        ("redis://host/zero", "the database must be a number, such as /0"),
        ("redis://host/0/1", "the database must be a number"),
        ("redis://host/-1", "the database must be a number"),
        ("redis://host?db=x", "the database must be a number, such as \\?db=0"),
        ("redis://host/0?timeout=3", "unknown parameter 'timeout'; .* fields of RedisConfig"),
        ("redis://:s3cr@et@host", "must be percent-encoded .* or be given as password="),
        ("redis://:s3cr/et@host", "percent-encoded"),
        ("redis://:s3cr#et@host", "percent-encoded"),
        ("redis://:s3cr?et@host", "percent-encoded"),
        ("redis://:s3cr[et@host", "percent-encoded"),
        ("redis://host/0#1", "percent-encoded"),
        ("unix://run/redis.sock", "three slashes"),
        ("unix://", "three slashes"),
    ],
)
def test_a_malformed_url_of_redis_is_refused_with_what_to_write(
    url: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asynctasq.app, "_current", None)
    with pytest.raises(ConfigurationError, match=rf"redis\.url: .*{problem}") as refused:
        asynctasq.init(driver="redis", redis=RedisConfig(url=url))
    assert "s3cr" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://host",
        "redis://host:1/",
        "redis://user:pass:word@[::1]:6379/15",
        "redis://:a%40b%2Fc@host/0",
        "redis://:100%@host",
        "redis://:secret@/3",
        "rediss://host:1/0?ssl_cert_reqs=none",
        "unix:///run/redis.sock?db=3",
        "unix://user:secret@/run/redis.sock",
    ],
)
def test_a_url_of_redis_is_accepted(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asynctasq.app, "_current", None)
    assert asynctasq.init(driver="redis", redis=url).sections["redis"].url == url


def test_all_public_names_are_there() -> None:
    for name in asynctasq.__all__:
        assert getattr(asynctasq, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = asynctasq.nothing


@pytest.mark.parametrize(
    "sentinel",
    [
        *("host", "host:", ":26379", "host:port", "host:0", "host:65536", "host:²", "::1:26379"),
        *("redis://host:26379", "user@host:26379", "a host:26379", "[::1:26379", "[]:26379"),
    ],
)
def test_a_sentinel_that_is_no_address_is_refused_where_it_is_given(
    sentinel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asynctasq.app, "_current", None)
    with pytest.raises(ConfigurationError, match=r"redis\.sentinels: .* is not host:port, such as"):
        asynctasq.init(redis=RedisConfig(sentinels=("good:26379", sentinel)))


def test_addresses_of_sentinels_are_read() -> None:
    address = Address(RedisConfig(sentinels=("one:26379", " [::1]:5 ", "10.0.0.1:65535")))
    assert address.sentinel_nodes == [("one", 26379), ("::1", 5), ("10.0.0.1", 65535)]

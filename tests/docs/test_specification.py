"""The examples of the specification, run end to end: a program dispatches, a worker runs.

Each file in `examples/` is one example as written. `DIFFERENCES` holds everything in which the
text that runs is another one; what an example leaves to its reader (tables, rows, the start) stands
in files of its own beside it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import redis

from .programs import POSTGRES, REDIS, Application, eventually, place

EXAMPLES = Path(__file__).parent / "examples"


def text_of(name: str) -> str:
    """An example as written."""
    return (EXAMPLES / f"{name}.py").read_text()


# Hosts, users and passwords.
SQLALCHEMY_URL = (
    "postgresql+asyncpg://user:pass@localhost/db",
    "postgresql+asyncpg://<DATABASE>",
)
TORTOISE_URL = ("postgres://user:pass@localhost/db", "asyncpg://<DATABASE>")
# The server of the tests is shared, so keys get a prefix.
REDIS_SINGLE = (
    "RedisConfig(url='redis://localhost:6379')",
    "RedisConfig(url='<REDIS>', key_prefix='<PREFIX>')",
)
REDIS_DOUBLE = (
    'RedisConfig(url="redis://localhost:6379")',
    'RedisConfig(url="<REDIS>", key_prefix="<PREFIX>")',
)
#: The lines of the production example for which the manual configuration is the alternative.
HELPER = (
    text_of("sqlalchemy_production")
    .partition("# ✅ Use helper")[2]
    .partition("\nBase._asynctasq_session_factory")[0]
)

#: Example -> what is replaced (old, new); the old text must occur.
DIFFERENCES: Mapping[str, Sequence[tuple[str, str]]] = {
    "sqlalchemy_development": [
        SQLALCHEMY_URL,
        (  # a function needs a body
            "    # User model automatically serialized as reference on dispatch\n",
            "    # User model automatically serialized as reference on dispatch\n"
            '    print(f"Sending welcome email to {user.email}")\n',
        ),
    ],
    "sqlalchemy_production": [
        SQLALCHEMY_URL,
        (  # `main` uses a name that only the example before this one has
            "# Dispatch task - simple and clean!\n",
            "SessionFactory = WorkerSessionFactory\n\n# Dispatch task - simple and clean!\n",
        ),
    ],
    "sqlalchemy_manual_engine": [SQLALCHEMY_URL],
    "sqlalchemy_dispose_after_fork": [
        (  # the engine that has a pool to dispose of is the development example's
            "# Before workers fork\n",
            "worker_engine = engine\n\n# Before workers fork\n",
        ),
    ],
    "sqlalchemy_engine_cleanup": [REDIS_DOUBLE],
    "django_model": [],
    "tortoise_automatic": [TORTOISE_URL, REDIS_SINGLE],
    "tortoise_manual": [TORTOISE_URL],
    "tortoise_advanced": [],
    "tortoise_multiple_models": [],
    "tortoise_lifecycle": [TORTOISE_URL, REDIS_SINGLE],
    "tortoise_performance": [
        (  # columns that its index and its update name, and the model that its key points to
            "class Article(Model):\n",
            "class User(Model):\n    id = fields.IntField(pk=True)\n"
            "    name = fields.TextField()\n\nclass Article(Model):\n",
        ),
        (
            "    title = fields.CharField(max_length=255)\n",
            "    title = fields.CharField(max_length=255)\n"
            "    status = fields.CharField(max_length=20, default='draft')\n"
            "    created_at = fields.DatetimeField(auto_now_add=True)\n",
        ),
    ],
    "tortoise_testing": [
        # They exist in Tortoise 0.x alone, and are no coroutine functions there.
        ("from tortoise.contrib.test import initializer, finalizer\n", ""),
        ("await initializer(", "await Tortoise.init("),
        (
            "    yield\n    await finalizer()\n",
            "    await Tortoise.generate_schemas()\n    yield\n"
            "    await Tortoise.close_connections()\n",
        ),
    ],
    "custom_types": [
        ("from uuid import UUID\n", "from uuid import UUID\nfrom asynctasq import task\n"),
    ],
}


def as_run(name: str) -> str:
    """An example with its differences."""
    text = text_of(name)
    for old, new in DIFFERENCES[name]:
        assert old in text, f"{name}: {old!r} does not occur"
        text = text.replace(old, new)
    return text


def test_every_example_is_here_with_its_differences() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(DIFFERENCES)
    tests = Path(__file__).read_text()
    for name in DIFFERENCES:
        assert as_run(name)
        assert re.search(rf'as_run\("{name}"\)', tests), f"nothing runs {name}"


@pytest.fixture(scope="session")
def database() -> Iterator[str]:
    """The name of a database of this run."""
    name = f"asynctasq_docs_{uuid4().hex[:12]}"
    try:
        _execute(POSTGRES, f"CREATE DATABASE {name}")
    except psycopg.OperationalError as e:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no PostgreSQL: {e}")
    yield name
    _execute(POSTGRES, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def application(tmp_path: Path, database: str) -> Application:
    """An empty folder with an empty database; the queue is the embedded one unless it says."""
    address = place(POSTGRES, database)
    _execute(f"postgresql://{address}", "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    return Application(tmp_path, address, f"docs-{uuid4().hex[:12]}", {})


def _execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True, connect_timeout=3) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.fixture
def on_redis(application: Application) -> Iterator[Application]:
    """The same for an example that says `redis`."""
    server = redis.Redis.from_url(REDIS)
    try:
        server.ping()
    except redis.ConnectionError as e:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no Redis: {e}")
    yield application
    for key in server.scan_iter(f"*{application.prefix}*", count=1000):
        server.delete(key)
    server.close()


# --- SQLAlchemy ------------------------------------------------------------------------------

#: Tables and a row; the row changes after the dispatch, so that the task shows whether it is fresh.
START_SQLALCHEMY = """
import asyncio
import app

async def start():
    engine = app.SessionFactory.kw["bind"]
    async with engine.begin() as connection:
        await connection.run_sync(app.Base.metadata.create_all)
    async with app.SessionFactory.begin() as session:
        session.add(app.User(id=1, email="old@example.com", name="Ada"))
    await app.main()
    async with app.SessionFactory.begin() as session:
        (await session.get(app.User, 1)).email = "new@example.com"
    await engine.dispose()

asyncio.run(start())
"""
#: The development example's `main` is that of the production example.
MAIN = "# Dispatch task" + text_of("sqlalchemy_production").partition("# Dispatch task")[2]
WELCOME = "Sending welcome email to new@example.com\n"


def run_sqlalchemy(application: Application, app: str, *arguments: str) -> str:
    """What the worker's tasks print."""
    application.write("app.py", app)
    application.write("start.py", START_SQLALCHEMY)
    application.python("start.py")
    return application.worker("app.py", *arguments)


def test_sqlalchemy_development(application: Application) -> None:
    application.write("app.py", as_run("sqlalchemy_development") + MAIN)
    application.write("start.py", START_SQLALCHEMY)
    application.python("start.py")
    queued = application.queued()
    assert all(part in queued for part in (b"__orm:sqlalchemy__", b"__orm_class__", b"app.User"))
    assert b"example.com" not in queued
    assert application.worker("app.py") == WELCOME


def test_sqlalchemy_production(application: Application) -> None:
    app = as_run("sqlalchemy_production")
    assert run_sqlalchemy(application, app, "--processes", "2") == WELCOME


def test_sqlalchemy_manual_engine(application: Application) -> None:
    app = as_run("sqlalchemy_production")
    helper = HELPER.replace(*SQLALCHEMY_URL)
    assert helper in app
    app = app.replace(helper, "\n" + as_run("sqlalchemy_manual_engine"))
    assert run_sqlalchemy(application, app, "--processes", "2") == WELCOME


def test_sqlalchemy_dispose_after_fork(application: Application) -> None:
    app = as_run("sqlalchemy_development") + as_run("sqlalchemy_dispose_after_fork") + MAIN
    assert run_sqlalchemy(application, app, "--processes", "2") == WELCOME


def test_sqlalchemy_engine_cleanup(on_redis: Application) -> None:
    on_redis.write(
        "watch.py",
        "import app\n"
        "from sqlalchemy import event\n"
        "@event.listens_for(app.engine.sync_engine, 'engine_disposed')\n"
        "def disposed(engine):\n"
        "    print('disposed')\n",
    )
    app = as_run("sqlalchemy_development") + as_run("sqlalchemy_engine_cleanup") + MAIN
    assert run_sqlalchemy(on_redis, app, "watch") == WELCOME + "disposed\n"
    assert not (on_redis.folder / ".asynctasq").exists()


# --- Django ----------------------------------------------------------------------------------

DJANGO_SETTINGS = """
from urllib.parse import urlsplit

parts = urlsplit("postgresql://<DATABASE>")
INSTALLED_APPS = ["app"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path[1:],
        "HOST": parts.hostname,
        "PORT": parts.port or "",
        "USER": parts.username,
        "PASSWORD": parts.password or "",
    }
}
"""
START_DJANGO = """
import asyncio
import django
django.setup()
from app.models import User, main
from django.core.management import call_command

call_command("migrate", run_syncdb=True, verbosity=0)
User.objects.create(id=1, email="old@example.com", name="Ada")
asyncio.run(main())
User.objects.filter(id=1).update(email="new@example.com")
"""


def test_django(application: Application) -> None:
    application = replace(application, settings={"DJANGO_SETTINGS_MODULE": "settings"})
    application.write("settings.py", DJANGO_SETTINGS)
    application.write("app/__init__.py", "")
    application.write("app/models.py", as_run("django_model"))
    application.write("start.py", START_DJANGO)
    application.python("start.py")
    queued = application.queued()
    assert b"__orm:django__" in queued
    assert b"app.models.User" in queued
    assert b"example.com" not in queued
    assert application.worker("app.models") == WELCOME


# --- Tortoise --------------------------------------------------------------------------------

#: A row before the example's `main`, and a change after it.
START_TORTOISE = """
import asyncio
from app.models import User, main
from tortoise import Tortoise

async def connected(work):
    await Tortoise.init(db_url="asyncpg://<DATABASE>", modules={"models": ["app.models"]})
    await Tortoise.generate_schemas()
    await work()
    await Tortoise.close_connections()

async def prepare():
    await User.create(id=1, email="old@example.com", name="Ada")

async def change():
    await User.filter(id=1).update(email="new@example.com")

asyncio.run(connected(prepare))
asyncio.run(main())
asyncio.run(connected(change))
"""
#: Set-up for examples that show none.
TORTOISE_SETTINGS = """
from asynctasq import init

config = {"db_url": "asyncpg://<DATABASE>", "modules": {"models": ["app.models"]}}
init(tortoise_config=config)
"""


def with_models(application: Application, text: str) -> Application:
    """Put the example where the specification's settings look for models."""
    if version("tortoise-orm") == "0.21.0":  # there `pk=True` makes keys that are not generated
        text = text.replace("pk=True", "primary_key=True")
    application.write("app/__init__.py", "")
    application.write("app/models.py", text)
    application.write("settings.py", TORTOISE_SETTINGS)
    return application


def run_connected(application: Application, *lines: str) -> str:
    """Run the body of a coroutine with Tortoise initialised and tables made; what it prints."""
    body = "".join(f"    {line}\n" for line in lines)
    program = START_TORTOISE.partition("async def prepare")[0].replace(
        "import User, main", "import *"
    )
    application.write(
        "step.py", f"{program}async def step():\n{body}\nasyncio.run(connected(step))\n"
    )
    return application.python("step.py")


def test_tortoise_automatic_initialisation(on_redis: Application) -> None:
    with_models(on_redis, as_run("tortoise_automatic"))
    on_redis.write("start.py", START_TORTOISE)
    on_redis.python("start.py")
    first, second = on_redis.worker("app.models", "--processes", "2").splitlines()
    assert f"{first}\n" == WELCOME
    assert re.fullmatch(r"User created at: \d{4}-\d\d-\d\d .*\+00:00", second)


def test_tortoise_manual_initialisation(application: Application) -> None:
    with_models(application, as_run("tortoise_manual"))
    application.write("start.py", START_TORTOISE)
    application.python("start.py")
    run_connected(application, "await User.filter(id=1).update(is_active=False)", "await main()")
    queued = application.queued()
    assert b"__orm:tortoise__" in queued
    assert b"example.com" not in queued
    # The second task finds Tortoise initialised by the first, and sees what that one saved.
    output = application.worker("app.models", "--concurrency", "1")
    assert output == f"{WELCOME}User active: False\n{WELCOME}User active: True\n"
    shown = run_connected(application, "print((await User.get(id=1)).is_active)")
    assert shown == "True\n"


def test_tortoise_advanced_features(application: Application) -> None:
    with_models(application, as_run("tortoise_advanced"))
    run_connected(
        application,
        "order = await Order.create(user_id=1, total='19.90', status='new')",
        "await process_order(order).dispatch()",
    )
    application.worker("app.models", "settings")
    assert run_connected(application, "print((await Order.get(id=1)).status)") == "completed\n"


def test_tortoise_advanced_features_when_the_task_fails(application: Application) -> None:
    """The database refuses the last step: the error is saved, and the task waits for its retry."""
    with_models(application, as_run("tortoise_advanced"))
    run_connected(
        application,
        "from tortoise import connections",
        "order = await Order.create(user_id=1, total='19.90', status='new')",
        "await connections.get('default').execute_script(",
        "    \"ALTER TABLE orders ADD CHECK (status <> 'completed')\")",
        "await process_order(order).dispatch()",
    )
    with application.running_worker("app.models", "settings"):
        eventually(lambda: application.counts("orders")["delayed"] == 1)
    assert run_connected(application, "print((await Order.get(id=1)).status)") == "failed\n"


def test_tortoise_multiple_models(application: Application) -> None:
    with_models(application, as_run("tortoise_multiple_models"))
    run_connected(
        application,
        "user = await User.create(email='ada@example.com')",
        "product = await Product.create(name='Tea', price='9.95')",
        "await send_purchase_confirmation(user, product, quantity=2).dispatch()",
    )
    assert application.worker("app.models", "settings") == (
        "Sending confirmation to ada@example.com\nProduct: Tea x 2\nTotal: $19.90\n"
    )


LIFECYCLE_MODELS = """
from asynctasq import task
from tortoise import connections, fields
from tortoise.models import Model

class User(Model):
    id = fields.IntField(pk=True)
    name = fields.TextField()

@task
async def look(user: User):
    client = connections.get('default')
    count = "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database()"
    (row,) = await client.execute_query_dict(count)
    print(row["n"], client.pool_minsize, client.pool_maxsize)
"""


def test_tortoise_connection_lifecycle(on_redis: Application) -> None:
    with_models(on_redis, LIFECYCLE_MODELS)
    on_redis.write("settings.py", as_run("tortoise_lifecycle"))
    run_connected(
        on_redis,
        "import settings",
        "user = await User.create(name='Ada')",
        "for _ in range(3): await look(user).dispatch()",
    )
    assert on_redis.worker("app.models", "settings") == "5 5 20\n" * 3
    with psycopg.connect(POSTGRES, autocommit=True) as connection:
        count = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
        name = on_redis.database.rpartition("/")[2]
        eventually(lambda: connection.execute(count, [name]).fetchone() == (0,))


def test_tortoise_performance(application: Application) -> None:
    with_models(application, as_run("tortoise_performance"))
    run_connected(
        application,
        "user = await User.create(name='Ada')",
        "articles = [await Article.create(title=t, author=user) for t in ('One', 'Two')]",
        "await publish_article(articles[0]).dispatch()",
    )
    assert application.worker("app.models", "settings") == "Publishing: One\n"
    count = "print(await Article.filter(status='published').count())"
    assert run_connected(application, count) == "2\n"


TESTING_MODELS = """
from tortoise import fields
from tortoise.models import Model

class User(Model):
    id = fields.IntField(pk=True)
    email = fields.CharField(max_length=255)
    name = fields.CharField(max_length=100)
"""
TESTING_TASKS = """
from asynctasq import task
from app.models import User

@task
async def send_welcome_email(user: User):
    print(f"Sending welcome email to {user.email}")
"""


def test_tortoise_testing(application: Application) -> None:
    with_models(application, TESTING_MODELS)
    application.write("app/tasks.py", TESTING_TASKS)
    application.write("test_example.py", as_run("tortoise_testing"))
    application.write(  # the example's fixture is a coroutine function and lives for the session
        "pytest.ini",
        "[pytest]\nasyncio_mode = auto\n"
        "asyncio_default_fixture_loop_scope = session\n"
        "asyncio_default_test_loop_scope = session\n",
    )
    output = application.python("-m", "pytest", "-s", "-q", "test_example.py")
    assert "Sending welcome email to test@example.com" in output
    assert "1 passed" in output


# --- custom types ----------------------------------------------------------------------------

START_TYPES = """
import asyncio
from datetime import datetime, timezone
from decimal import Decimal
from uuid import UUID
from app import process_order

call = process_order(
    UUID(int=7), datetime(2026, 1, 2, tzinfo=timezone.utc), Decimal("19.90"), {"new", "paid"}
)
asyncio.run(call.dispatch())
"""


def test_custom_types(application: Application) -> None:
    types = "    print(repr((order_id, created_at, amount, sorted(tags), type(tags))))\n"
    application.write("app.py", as_run("custom_types") + types)
    application.write("start.py", START_TYPES)
    application.python("start.py")
    assert application.worker("app.py") == (
        "Processing order 00000000-0000-0000-0000-000000000007 for $19.90\n"
        "(UUID('00000000-0000-0000-0000-000000000007'), "
        "datetime.datetime(2026, 1, 2, 0, 0, tzinfo=datetime.timezone.utc), "
        "Decimal('19.90'), ['new', 'paid'], <class 'set'>)\n"
    )

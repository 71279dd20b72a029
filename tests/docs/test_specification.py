"""The examples of the specification, run end to end: a program dispatches, a worker runs.

They run as written, but for what `differences.py` lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import redis

from ..servers import postgres_url, redis_url
from .differences import DIFFERENCES, EXAMPLES, as_run
from .programs import Application, eventually, place


def test_every_example_is_run() -> None:
    tests = Path(__file__).read_text()
    for name in DIFFERENCES:
        assert as_run(name)
        assert re.search(rf'as_run\("{name}"\)', tests), f"nothing runs {name}"


@pytest.fixture(scope="session")
def database() -> Iterator[str]:
    """The name of a database of this run."""
    name = f"asynctasq_docs_{uuid4().hex[:12]}"
    url = postgres_url()
    _execute(url, f"CREATE DATABASE {name}")
    _execute(url, f"ALTER DATABASE {name} SET synchronous_commit = off")
    yield name
    _execute(url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def application(tmp_path: Path, database: str) -> Application:
    """An empty folder with an empty database; the queue is the embedded one unless it says."""
    address = place(postgres_url(), database)
    _execute(f"postgresql://{address}", "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    return Application(tmp_path, address, f"docs-{uuid4().hex[:12]}", {})


def _execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True, connect_timeout=3) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.fixture
def on_redis(application: Application) -> Iterator[Application]:
    """The same for an example that says `redis`."""
    url = redis_url()
    yield application
    with redis.Redis.from_url(url) as server:
        for key in server.scan_iter(f"*{application.prefix}*", count=1000):
            server.delete(key)


# --- worker processes ------------------------------------------------------------------------

#: A task that holds a connection until another process runs it too, and leaves a file then.
MEETING = """
import asyncio
import os
from pathlib import Path
from asynctasq import task
from backend import User, backend

PLACE = Path("meeting_place")

@task(max_attempts=1)
async def meet(user: User):
    PLACE.mkdir(exist_ok=True)
    mine = PLACE / f"{os.getpid()}.waiting"
    mine.write_text(str(await backend()))
    async with asyncio.timeout(30):
        while len(list(PLACE.iterdir())) < 2:
            await asyncio.sleep(0.01)
    mine.rename(mine.with_suffix(".met"))
"""


def assert_two_met(application: Application) -> set[str]:
    """Two processes ran a task at the same time, each with a connection of its own.

    Returns:
        The process ids of the connections' other ends.
    """
    met = list((application.folder / "meeting_place").glob("*.met"))
    backends = {file.read_text() for file in met}
    assert len(met) == len(backends) == 2
    return backends


# --- SQLAlchemy ------------------------------------------------------------------------------

#: Tables and a row; the row changes after the dispatch, so that the task shows whether it is fresh.
START_SQLALCHEMY = """
import asyncio
import sys
from importlib import import_module
import app

async def start():
    engine = app.SessionFactory.kw["bind"]
    async with engine.begin() as connection:
        await connection.run_sync(app.Base.metadata.create_all)
    async with app.SessionFactory.begin() as session:
        session.add(app.User(id=1, email="old@example.com", name="Ada"))
    await app.main()
    async with app.SessionFactory.begin() as session:
        user = await session.get(app.User, 1)
        user.email = "new@example.com"
        for name in sys.argv[1:]:
            await import_module(name).meet(user).dispatch()
    await engine.dispose()

asyncio.run(start())
"""
#: The development example's `main` is that of the production example.
MAIN = "# Dispatch task" + EXAMPLES["sqlalchemy_production"].partition("# Dispatch task")[2]
WELCOME = "Sending welcome email to new@example.com\n"


SQLALCHEMY_BACKEND = """
from app import User
from asynctasq import task_session
from sqlalchemy import text

async def backend():
    return await task_session().scalar(text("SELECT pg_backend_pid()"))
"""


def start_sqlalchemy(application: Application, app: str, *meetings: str) -> None:
    """Dispatch what the example dispatches, and the task of each of the modules."""
    application.write("app.py", app)
    application.write("start.py", START_SQLALCHEMY)
    application.write("backend.py", SQLALCHEMY_BACKEND)
    application.write("meeting.py", MEETING)
    application.python("start.py", *meetings)


def assert_two_processes_work(application: Application, app: str) -> None:
    """The example's task runs, and two that meet in two processes."""
    start_sqlalchemy(application, app, "meeting", "meeting")
    output = application.worker("app.py", "meeting", "--processes", "2", "--concurrency", "1")
    assert WELCOME in output
    assert_two_met(application)


def test_sqlalchemy_development(application: Application) -> None:
    start_sqlalchemy(application, as_run("sqlalchemy_development") + MAIN)
    queued = application.queued()
    assert all(part in queued for part in (b"__orm:sqlalchemy__", b"__orm_class__", b"app.User"))
    assert b"example.com" not in queued
    assert application.worker("app.py") == WELCOME


def test_sqlalchemy_production(application: Application) -> None:
    assert_two_processes_work(application, as_run("sqlalchemy_production"))


def test_sqlalchemy_manual_engine(application: Application) -> None:
    app = as_run("sqlalchemy_development") + as_run("sqlalchemy_manual_engine") + MAIN
    assert_two_processes_work(application, app)


#: A server that has used its pool, and then forks its workers.
FORK = """
import asyncio
import multiprocessing
import app
import meeting
from asynctasq import Worker
from sqlalchemy import text

async def backend():
    async with app.engine.connect() as connection:
        return await connection.scalar(text("SELECT pg_backend_pid()"))

def work():
    asyncio.run(Worker(concurrency=1, burst=True).run())

with asyncio.Runner() as parent:
    mine = parent.run(backend())
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert parent.run(backend()) == mine
    parent.run(app.engine.dispose())
print("parent", mine)
"""


def test_sqlalchemy_dispose_after_fork(application: Application) -> None:
    app = as_run("sqlalchemy_development") + as_run("sqlalchemy_dispose_after_fork") + MAIN
    start_sqlalchemy(application, app, "meeting", "meeting")
    application.write("fork.py", FORK)
    output = application.python("-W", "ignore:This process:DeprecationWarning", "fork.py")
    assert WELCOME in output
    parent = output.splitlines()[-1].removeprefix("parent ")
    assert parent not in assert_two_met(application)


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
    start_sqlalchemy(on_redis, app)
    assert on_redis.worker("app.py", "watch") == WELCOME + "disposed\n"
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
import sys
from importlib import import_module
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
    for name in sys.argv[1:]:
        await import_module(name).meet(await User.get(id=1)).dispatch()

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


TORTOISE_BACKEND = """
from app.models import User
from tortoise import connections

async def backend():
    client = connections.get("default")
    (row,) = await client.execute_query_dict("SELECT pg_backend_pid() AS pid")
    return row["pid"]
"""


def test_tortoise_automatic_initialisation(on_redis: Application) -> None:
    with_models(on_redis, as_run("tortoise_automatic"))
    on_redis.write("start.py", START_TORTOISE)
    on_redis.write("backend.py", TORTOISE_BACKEND)
    on_redis.write("meeting.py", MEETING)
    on_redis.python("start.py", "meeting", "meeting")
    output = on_redis.worker("app.models", "meeting", "--processes", "2", "--concurrency", "1")
    assert WELCOME in output
    assert re.search(r"^User created at: \d{4}-\d\d-\d\d .*\+00:00$", output, re.MULTILINE)
    assert_two_met(on_redis)


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
    id = fields.IntField(primary_key=True)
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
    with psycopg.connect(postgres_url(), autocommit=True) as connection:
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
    id = fields.IntField(primary_key=True)
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
    unset = "ignore:The configuration option"  # by pytest-asyncio, of its defaults
    output = application.python("-W", unset, "-m", "pytest", "-s", "-q", "test_example.py")
    assert "Sending welcome email to test@example.com" in output
    assert "1 passed" in output


# --- custom types ----------------------------------------------------------------------------

#: A task with the example's types and the two that it has not, which tells what it was given.
LOOK = """
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID
from asynctasq import task

@task
async def look(
    order_id: UUID, created_at: datetime, amount: Decimal, tags: set[str], day: date, scan: bytes
):
    print(repr((order_id, created_at, amount, tags, day, scan)))
"""
START_TYPES = """
import asyncio
from datetime import date, datetime, timezone
from decimal import Decimal
from uuid import UUID
from app import process_order
from look import look

values = UUID(int=7), datetime(2026, 1, 2, tzinfo=timezone.utc), Decimal("19.90"), {"paid"}

async def start():
    await process_order(*values).dispatch()
    await look(*values, date(2026, 1, 2), b"\\x00\\xff").dispatch()

asyncio.run(start())
"""


def test_custom_types(application: Application) -> None:
    application.write("app.py", as_run("custom_types"))
    application.write("look.py", LOOK)
    application.write("start.py", START_TYPES)
    application.python("start.py")
    assert application.worker("app.py", "look", "--concurrency", "1") == (
        "Processing order 00000000-0000-0000-0000-000000000007 for $19.90\n"
        "(UUID('00000000-0000-0000-0000-000000000007'), "
        "datetime.datetime(2026, 1, 2, 0, 0, tzinfo=datetime.timezone.utc), "
        "Decimal('19.90'), {'paid'}, datetime.date(2026, 1, 2), b'\\x00\\xff')\n"
    )

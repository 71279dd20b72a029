"""The SQLAlchemy examples of the specification, as written but for what each test says.

Everywhere: the address of the database, a body for the task that has none, and the creation of the
table with its one row.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
import redis
from sqlalchemy import URL

MODELS = """
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from asynctasq import task

# Define your models
class Base(DeclarativeBase):
    pass

class User(Base):
    __tablename__ = 'spec_users'
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    name: Mapped[str]
"""

TASK = """
# Define task - no manual session management needed!
@task(queue='users')
async def send_welcome_email(user: User):
    print(f"Sending welcome email to {user.email}", flush=True)
"""

DISPATCH = """
# Dispatch task - simple and clean!
async def main():
    async with SessionFactory() as session:
        user = await session.get(User, 1)
        # Only user.id is serialized to queue
        await send_welcome_email(user=user).dispatch()
"""

START = """
if __name__ == "__main__":
    import asyncio

    async def run():
        async with SessionFactory.kw["bind"].begin() as connection:
            await connection.run_sync(Base.metadata.drop_all)
            await connection.run_sync(Base.metadata.create_all)
        async with SessionFactory() as session:
            session.add(User(id=1, email="ada@example.com", name="Ada"))
            await session.commit()
        await main()
        await SessionFactory.kw["bind"].dispose()

    asyncio.run(run())
"""

DEVELOPMENT = """
from sqlalchemy.ext.asyncio import create_async_engine, AsyncSession, async_sessionmaker

# Setup async engine and session factory
engine = create_async_engine(
    'postgresql+asyncpg://user:pass@localhost/db',
    pool_pre_ping=True,  # Verify connections are alive
    pool_recycle=3600,   # Recycle connections after 1 hour
)
SessionFactory = async_sessionmaker(
    engine,
    class_=AsyncSession,
    expire_on_commit=False  # Prevent lazy-load queries after commit
)

# Set session factory ONCE on Base class - all models inherit automatically!
Base._asynctasq_session_factory = SessionFactory
"""

PRODUCTION = """
from asynctasq import task, create_worker_session_factory

# Use helper for worker processes (automatically uses NullPool)
WorkerSessionFactory = create_worker_session_factory(
    'postgresql+asyncpg://user:pass@localhost/db',
    pool_pre_ping=True,
)

Base._asynctasq_session_factory = WorkerSessionFactory
SessionFactory = WorkerSessionFactory
"""

MANUAL = """
from sqlalchemy.ext.asyncio import create_async_engine, AsyncSession, async_sessionmaker
from sqlalchemy.pool import NullPool

# Worker engine with NullPool - creates new connection for each checkout
# Avoids connection pool sharing across forked processes
worker_engine = create_async_engine(
    'postgresql+asyncpg://user:pass@localhost/db',
    poolclass=NullPool,      # CRITICAL for multiprocessing safety
    pool_pre_ping=True,      # Verify connections are alive
)

WorkerSessionFactory = async_sessionmaker(
    worker_engine,
    class_=AsyncSession,
    expire_on_commit=False
)
Base._asynctasq_session_factory = SessionFactory = WorkerSessionFactory
"""

GUARD = """
import os
from sqlalchemy import event

worker_engine = engine

# Before workers fork
@event.listens_for(worker_engine.sync_engine, "connect")
def receive_connect(dbapi_conn, connection_record):
    connection_record.info['pid'] = os.getpid()

@event.listens_for(worker_engine.sync_engine, "checkout")
def receive_checkout(dbapi_conn, connection_record, connection_proxy):
    pid = os.getpid()
    if connection_record.info['pid'] != pid:
        connection_record.dbapi_connection = connection_proxy.dbapi_connection = None
        raise Exception(
            "Connection record belongs to pid %s, attempting to check out in pid %s"
            % (connection_record.info['pid'], pid)
        )
"""

CLEANUP = """
from asynctasq import init, RedisConfig

# Pass your SQLAlchemy engine to AsyncTasQ for automatic cleanup
init({
    "driver": "redis",
    "redis": RedisConfig(url="redis://localhost:6379", key_prefix="PREFIX"),
    "sqlalchemy_engine": engine  # AsyncTasQ will dispose this on shutdown
})

from sqlalchemy import event

@event.listens_for(engine.sync_engine, "engine_disposed")
def disposed(engine):
    print("disposed", flush=True)
"""

REDIS_URL = os.environ.get("ASYNCTASQ_TEST_REDIS_URL", "redis://localhost:6379")


@pytest.fixture
def run(tmp_path: Path, database_url: Callable[[str], URL]) -> Callable[..., str]:
    """Runs a program, then a worker for it; gives the worker's output."""
    url = database_url("postgres").set(drivername="postgresql+asyncpg")

    def run_program(*parts: str, processes: int = 1) -> str:
        text = "".join(parts).replace(
            "postgresql+asyncpg://user:pass@localhost/db", url.render_as_string(False)
        )
        (tmp_path / "app.py").write_text(text)
        call([sys.executable, "app.py"], tmp_path)
        worker = [sys.executable, "-m", "asynctasq", "worker", "app.py", "--burst"]
        return call([*worker, "--processes", str(processes)], tmp_path)

    return run_program


def call(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_development(run: Callable[..., str]) -> None:
    assert "welcome email to ada@" in run(MODELS, DEVELOPMENT, TASK, DISPATCH, START)


def test_production(run: Callable[..., str]) -> None:
    """`main` of the example uses a `SessionFactory` that only the example before it has."""
    output = run(MODELS, PRODUCTION, TASK, DISPATCH, START, processes=2)
    assert "welcome email to ada@" in output


def test_manual_configuration(run: Callable[..., str]) -> None:
    """The example ends without setting the factory on the base."""
    assert "welcome email to ada@" in run(MODELS, MANUAL, TASK, DISPATCH, START, processes=2)


def test_dispose_engine_after_fork(run: Callable[..., str]) -> None:
    """The listeners are on the development example's engine, which has a pool."""
    output = run(MODELS, DEVELOPMENT, GUARD, TASK, DISPATCH, START, processes=2)
    assert "welcome email to ada@" in output


def test_engine_cleanup(run: Callable[..., str]) -> None:
    """The keys in Redis have a prefix of their own; the disposal is shown by a listener."""
    prefix = f"asynctasq-sa-{uuid4().hex[:8]}"
    server = redis.Redis.from_url(REDIS_URL)
    try:
        server.ping()
    except redis.ConnectionError:
        if os.environ.get("CI"):
            raise
        pytest.skip("Redis is not reachable")
    cleanup = CLEANUP.replace("PREFIX", prefix).replace("redis://localhost:6379", REDIS_URL)
    output = run(MODELS, DEVELOPMENT, cleanup, TASK, DISPATCH, START)
    for key in server.scan_iter(f"*{prefix}*"):
        server.delete(key)
    server.close()
    assert "welcome email to ada@" in output
    assert output.rstrip().endswith("disposed")

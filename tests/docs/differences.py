"""The examples of the specification as they run, and every difference from how they are written.

What an example leaves to its reader (tables, rows, the start) stands in files of its own beside it.
An example that goes on where another one ended is run below it in the same file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version

from . import specification

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
#: With Tortoise 0.21.0, `pk=True` makes keys that are not generated.
KEYS = [("pk=True", "primary_key=True")] if version("tortoise-orm") == "0.21.0" else []

#: Each example of the specification, in its order -> what is replaced (old, new).
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
    "sqlalchemy_manual_engine": [
        SQLALCHEMY_URL,
        (  # nothing uses the factory
            "    expire_on_commit=False\n)\n",
            "    expire_on_commit=False\n)\n\n"
            "Base._asynctasq_session_factory = WorkerSessionFactory\n",
        ),
    ],
    "sqlalchemy_dispose_after_fork": [
        (  # the engine that has a pool to dispose of is the development example's
            "# Before workers fork\n",
            "worker_engine = engine\n\n# Before workers fork\n",
        ),
    ],
    "sqlalchemy_engine_cleanup": [REDIS_DOUBLE],
    "django_model": [],
    "tortoise_automatic": [TORTOISE_URL, REDIS_SINGLE, *KEYS],
    "tortoise_manual": [TORTOISE_URL, *KEYS],
    "tortoise_advanced": [*KEYS],
    "tortoise_multiple_models": [*KEYS],
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
        *KEYS,
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
        # A fixture that is a coroutine function, and the event loop that it lives on.
        ("import pytest\n", "import pytest\nimport pytest_asyncio\n"),
        ("@pytest.fixture(scope=", '@pytest_asyncio.fixture(loop_scope="session", scope='),
        ("@pytest.mark.asyncio\n", '@pytest.mark.asyncio(loop_scope="session")\n'),
    ],
    "custom_types": [
        ("from uuid import UUID\n", "from uuid import UUID\nfrom asynctasq import task\n"),
    ],
}
EXAMPLES = dict(zip(DIFFERENCES, specification.examples(), strict=True))


def as_run(name: str) -> str:
    """An example with its differences."""
    text = EXAMPLES[name]
    for old, new in DIFFERENCES[name]:
        assert old in text, f"{name}: {old!r} does not occur"
        text = text.replace(old, new)
    return text

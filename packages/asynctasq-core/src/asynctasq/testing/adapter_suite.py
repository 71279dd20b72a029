"""The suite that every adapter must pass."""

from __future__ import annotations

from .adapters.application import Scope
from .adapters.commits import CommitsTests
from .adapters.fetching import FetchingTests
from .adapters.importing import ImportingTests
from .adapters.loading import LoadingTests
from .adapters.missing import MissingTests
from .adapters.once import OnceTests
from .adapters.references import ReferencesTests
from .adapters.running import RunningTests
from .adapters.scoping import ScopingTests
from .adapters.statements import logged

__all__ = ["AdapterSuite", "Scope", "logged"]


class AdapterSuite(
    ReferencesTests,
    FetchingTests,
    RunningTests,
    ScopingTests,
    MissingTests,
    CommitsTests,
    OnceTests,
    LoadingTests,
    ImportingTests,
):
    """Tests of everything that the hooks promise; subclass it with your models.

    The adapter must be installed (`pip install -e .` will do). A subclass whose name begins with
    `Test` supplies the name of the entry point, a fixture and some methods::

        class TestMyAdapter(AdapterSuite):
            adapter = "myorm"
            asynchronous = False

            @pytest.fixture
            def database(self, tmp_path):
                ...  # create tables
                yield
                ...  # remove them

            def save(self, name):
                return User.create(name=name)

    Always required:

    * `adapter`: the name of the entry point.
    * `asynchronous`: whether the ORM's calls are awaited. If so, every method below may be
      `async def` and runs on the event loop; if not, each runs in a thread without one, the same
      thread throughout a test.
    * the fixture `database`: creates the tables, and drops them after the test. Parametrise it to
      test several servers.
    * `save(name)`, `save_other(name)`, `new(name)`, `rename(row, name)`, `delete(row)`: rows of a
      main model, whose key is one generated int, and of a second model. Their instances have a
      `name` that can be read and set.
    * `statements()`: a context manager that gives the list of statements sent inside it, from all
      threads; for an ORM that logs its statements, `asynctasq.testing.logged("myorm")` is one.

    Where needed: `options()` (for `asynctasq.init`), `is_query(statement)`, `disconnect()` (called
    after each test, in the same thread as the other methods), and `set_name(row, name)` and
    `other_key(key, number)` for instances and keys unlike those above.

    Capabilities are class attributes, false unless noted. Tests of an absent capability are
    skipped, naming it; a capability that is present needs the methods listed after it:

    * `composite_keys`: `save_composite(name)`.
    * `other_keys`: `save_with_other_keys()`, rows with keys of text, UUIDs and any other type.
    * `several_databases`: `save_elsewhere(name)`.
    * `hidden_rows`: `save_hidden(name)`, a row that the model's default query leaves out.
    * `knows_deleted`: an instance through which a row was deleted knows that.
    * `stale_instances`: `stale(row)`, an expired, detached or deferred instance of the row.
    * `sync_tasks` (true): `def` tasks can read instances in their thread.
    * `transactions`: `transaction()`, `read(transaction, row)` and, unless `save` will do,
      `write(transaction, name)`, where `transaction` is what entering `transaction()` returned.
    * `savepoints`: `savepoint(transaction)`, unless a nested `transaction()` is one.
    * `context_transactions`: the adapter has the hook `open_transaction`.
    * `declared_loading`: `save_loadable(name)`, `loading()`, `loaded(row)`.
    * `locking`: `lock()`.
    * `lazy`: `forget_setup()`, `set_up()`.
    * `outages`: `outage()`, a context manager inside which the database does not answer.
    * `missing_table`: `without_table()`, a context manager inside which the main model's table does
      not exist.
    * `knows_limits`: the adapter asks the database how many keys a query may have; otherwise a few
      thousand keys must take several queries.
    * `transactions_end` (true): what entering `transaction()` returned cannot begin another one.
    * `counts_connections`: `connections()`, as counted by the server or the pool.
    * `knows_connection`: `is_connected()`, for an ORM whose connections belong to threads.
    * `outbox`, besides `transactions`: the adapter has the hooks `databases` and `own_transaction`.
      Waiting calls are kept in the first of these databases, which also holds the rows of `save`.
    * `atomic`: `save_changes(row)`; the adapter has the hook `atomic_transaction`.
    """

"""The one suite that every adapter passes."""

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
    """Everything that the hooks promise, as tests; subclass it with your models.

    The adapter must be installed (`pip install -e .` will do). A subclass whose name begins with
    `Test` gives the name of the entry point, a fixture and some methods::

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

    Always given:

    * `adapter`: the name of the entry point.
    * `asynchronous`: whether the ORM's calls are awaited. If so, every method below may be
      `async def` and runs on the event loop; if not, each runs in a thread without one, always the
      same in one test.
    * fixture `database`: tables exist until the test ends. Parametrise it to test several servers.
    * `save(name)`, `save_other(name)`, `new(name)`, `rename(row, name)`, `delete(row)`: rows of a
      main model, whose key is one generated int, and of a second one. Their instances have an
      attribute `name` that can be read and set.
    * `statements()`: a context manager with the list of statements sent while it is entered, of
      all threads; `asynctasq.testing.logged("myorm")` is one for an ORM that logs them.

    Where needed: `options()` (for `asynctasq.init`), `is_query(statement)`, `disconnect()` (called
    where the other methods are, when the test has ended), `set_name(row, name)` and
    `other_key(key, number)` for instances and keys unlike those above.

    Capabilities are class attributes, false unless said otherwise. A test of a capability that is
    absent is skipped and names it; one that is present needs the methods after it:

    * `composite_keys`: `save_composite(name)`.
    * `other_keys`: `save_with_other_keys()`, rows with keys of text, UUID and whatever else.
    * `several_databases`: `save_elsewhere(name)`.
    * `hidden_rows`: `save_hidden(name)`, a row that the model's default query leaves out.
    * `knows_deleted`: an instance knows that its row was deleted through it.
    * `stale_instances`: `stale(row)`, an expired, detached or deferred instance of the row.
    * `sync_tasks` (true): `def` tasks can read instances in their thread.
    * `transactions`: `transaction()`, `read(transaction, row)` and, unless it is `save`,
      `write(transaction, name)`, where `transaction` is what entering `transaction()` gave.
    * `savepoints`: `savepoint(transaction)`, unless it is `transaction()` again.
    * `context_transactions`: there is a hook `open_transaction`.
    * `declared_loading`: `save_loadable(name)`, `loading()`, `loaded(row)`.
    * `locking`: `lock()`.
    * `lazy`: `forget_setup()`, `set_up()`.
    * `outages`: `outage()`, a context manager while which the database does not answer.
    * `missing_table`: `without_table()`, a context manager while which the main model's table is
      not there.
    * `knows_limits`: the adapter asks the database how many keys a query may have; else some
      thousands must take several.
    * `transactions_end` (true): what entering `transaction()` gave cannot begin another one.
    * `counts_connections`: `connections()`, as the server or the pool counts them.
    * `knows_connection`: `is_connected()`, of an ORM whose connections belong to threads.
    * `outbox`, beside `transactions`: there are hooks `databases` and `own_transaction`, and what
      waits is kept in the first of these databases, where the rows of `save` are.
    * `atomic`: there is a hook `atomic_transaction`; `save_changes(row)`.
    """

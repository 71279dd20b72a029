"""The one suite that every broker passes."""

from __future__ import annotations

from .brokers.cancelling import Cancelling
from .brokers.dead_letters import DeadLetters
from .brokers.fixtures import OpenBroker, StartConsumer
from .brokers.joining import Joins, OpenTransaction
from .brokers.leading import Leading
from .brokers.leasing import Leasing
from .brokers.limits import Limits
from .brokers.overview import Overview
from .brokers.postponing import Postponing
from .brokers.priorities import Priorities
from .brokers.rates import Rates
from .brokers.remembering import Remembers
from .brokers.results import Results
from .brokers.sending import Sending
from .brokers.settling import Settling
from .brokers.unique import Unique
from .brokers.waiting import Waiting

__all__ = ["BrokerSuite", "OpenBroker", "OpenTransaction", "StartConsumer"]


class BrokerSuite(
    Sending,
    Cancelling,
    Results,
    Waiting,
    Leasing,
    Settling,
    Postponing,
    DeadLetters,
    Overview,
    Leading,
    Unique,
    Limits,
    Rates,
    Priorities,
    Remembers,
    Joins,
):
    """Everything that `asynctasq.brokers` promises, as tests.

    In the order of the contract: sending (`Sending`, `Cancelling`, `Results`), consuming
    (`Waiting`, `Leasing`, `Settling`, `Postponing`), looking (`DeadLetters`, `Overview`) and
    coordinating (`Leading`, `Unique`, `Limits`, `Rates`, `Priorities`, `Remembers`); and `Joins`.

    Subclass it in a test module and give one fixture, `open_broker`; every test then runs on it::

        class TestMyBroker(BrokerSuite):
            @pytest_asyncio.fixture
            async def open_broker(self) -> AsyncIterator[OpenBroker]:
                brokers = []

                def open_one() -> Broker:
                    brokers.append(MyBroker(...))
                    return brokers[-1]

                yield open_one
                for broker in brokers:
                    await broker.close()
                # remove the data

    `open_broker` is called several times in a test; each call gives a new broker on the same store,
    as another process would have it, and closes them all when the test ends. Queue names differ
    from test to test, so that a store need not be empty.

    Fixtures for tests of your own in the subclass: `broker`, `other_broker` (two brokers of
    `open_broker`), `queue` (an unused name) and `start_consumer` (call and await it with a broker,
    queues and `lease_seconds=`; what it started is stopped when the test ends).

    Class attributes to override:

    * `lease_seconds`: lease of the tests in which it runs out; raise it for a slow server.
    * `due_goes_first`: whether a delayed message that is due is taken before new ones of its queue.
    * `bulk`: how many messages the tests of many put at once.

    Capabilities are class attributes too. A test of one that is absent is skipped and names it:

    * `coordinates` (false): whether it has the methods of `asynctasq.brokers.Coordinating`.
    * `polices` (false): whether it is `asynctasq.brokers.Policing`: policies and priorities.
    * `remembers` (false): whether it has the methods of `asynctasq.brokers.Remembering`.
    * `joins_transactions` (false): whether it is `asynctasq.brokers.Transactional`. Such a one
      gives a second fixture, `open_transaction`: what begins a transaction on its database.
    """

"""The one suite that every broker passes."""

from __future__ import annotations

from .brokers.cancelling import CancellingTests
from .brokers.dead_letters import DeadLettersTests
from .brokers.fixtures import OpenBroker, StartConsumer
from .brokers.joining import JoiningTests, OpenTransaction
from .brokers.leading import LeadingTests
from .brokers.leasing import LeasingTests
from .brokers.limits import LimitsTests
from .brokers.listing import ListingTests
from .brokers.overview import OverviewTests
from .brokers.pausing import PausingTests
from .brokers.postponing import PostponingTests
from .brokers.priorities import PrioritiesTests
from .brokers.rates import RatesTests
from .brokers.remembering import RememberingTests
from .brokers.results import ResultsTests
from .brokers.sending import SendingTests
from .brokers.settling import SettlingTests
from .brokers.unique import UniqueTests
from .brokers.waiting import WaitingTests

__all__ = ["BrokerSuite", "OpenBroker", "OpenTransaction", "StartConsumer"]


class BrokerSuite(
    SendingTests,
    CancellingTests,
    ResultsTests,
    WaitingTests,
    LeasingTests,
    SettlingTests,
    PostponingTests,
    DeadLettersTests,
    OverviewTests,
    ListingTests,
    LeadingTests,
    UniqueTests,
    LimitsTests,
    RatesTests,
    PrioritiesTests,
    RememberingTests,
    PausingTests,
    JoiningTests,
):
    """Everything that `asynctasq.brokers` promises, as tests.

    In the order of the contract: sending (`SendingTests`, `CancellingTests`, `ResultsTests`),
    consuming (`WaitingTests`, `LeasingTests`, `SettlingTests`, `PostponingTests`), looking
    (`DeadLettersTests`, `OverviewTests`, `ListingTests`) and coordinating (`LeadingTests`,
    `UniqueTests`, `LimitsTests`, `RatesTests`, `PrioritiesTests`, `RememberingTests`,
    `PausingTests`); and `JoiningTests`.

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

    * `lists` (false): whether it has the methods of `asynctasq.brokers.Listing`.
    * `coordinates` (false): whether it has the methods of `asynctasq.brokers.Coordinating`.
    * `polices` (false): whether it is `asynctasq.brokers.Policing`: policies and priorities.
    * `remembers` (false): whether it has the methods of `asynctasq.brokers.Remembering`.
    * `pauses` (false): whether it has the methods of `asynctasq.brokers.Pausing`.
    * `joins_transactions` (false): whether it is `asynctasq.brokers.Transactional`. Such a one
      gives a second fixture, `open_transaction`: what begins a transaction on its database.
    """

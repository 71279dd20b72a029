"""The suite that every broker must pass."""

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
    """Tests of everything that `asynctasq.brokers` promises.

    In the order of the contract: sending (`SendingTests`, `CancellingTests`, `ResultsTests`),
    consuming (`WaitingTests`, `LeasingTests`, `SettlingTests`, `PostponingTests`), looking
    (`DeadLettersTests`, `OverviewTests`, `ListingTests`) and coordinating (`LeadingTests`,
    `UniqueTests`, `LimitsTests`, `RatesTests`, `PrioritiesTests`, `RememberingTests`,
    `PausingTests`); and `JoiningTests`.

    Subclass it in a test module and define one fixture, `open_broker`, which every test uses::

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

    A test may call `open_broker` several times. Each call returns a new broker on the same store,
    as another process would have; the fixture closes them all when the test ends. Queue names
    differ from test to test, so the store need not be empty.

    Fixtures for tests of your own in the subclass: `broker`, `other_broker` (two brokers of
    `open_broker`), `queue` (an unused name) and `start_consumer` (await it with a broker, queues
    and `lease_seconds=`; its consumers are stopped when the test ends).

    Class attributes to override:

    * `lease_seconds`: the lease in tests that let it run out; raise it for a slow server.
    * `due_goes_first`: whether a delayed message that is due goes before its queue's new ones.
    * `bulk`: how many messages tests of many messages put at once.

    Capabilities are class attributes, too. Tests of an absent one are skipped, naming it:

    * `lists` (false): whether it has the methods of `asynctasq.brokers.Listing`.
    * `coordinates` (false): whether it has the methods of `asynctasq.brokers.Coordinating`.
    * `polices` (false): whether it is `asynctasq.brokers.Policing`: policies and priorities.
    * `remembers` (false): whether it has the methods of `asynctasq.brokers.Remembering`.
    * `pauses` (false): whether it has the methods of `asynctasq.brokers.Pausing`.
    * `joins_transactions` (false): whether it is `asynctasq.brokers.Transactional`. This needs a
      second fixture, `open_transaction`, which begins transactions on the broker's database.
    """

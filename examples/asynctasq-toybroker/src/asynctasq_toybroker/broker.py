"""The broker."""

from .consuming import ToyConsuming
from .coordinating import ToyCoordinating
from .looking import ToyLooking
from .sending import ToySending


class ToyBroker(ToySending, ToyConsuming, ToyLooking, ToyCoordinating):
    """Everything of the contract, on one file."""

    async def close(self) -> None:
        """Do nothing, for nothing is open."""

"""The parts of `AdapterSuite`, one for each promise that an adapter makes."""

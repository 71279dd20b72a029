"""The parts of `AdapterSuite`, one for each promise of an adapter."""

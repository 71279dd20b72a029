"""The memory broker: queues in one process's memory, for tests and experiments."""

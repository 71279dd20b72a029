"""The SQLite broker: queues in one file, shared by the processes of one machine."""

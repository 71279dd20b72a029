"""Queues in Redis: streams, leases by their pending lists, one script for each transition."""

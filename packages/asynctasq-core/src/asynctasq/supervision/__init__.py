"""Runs worker processes: signals, a watchdog, and a supervisor for several of them."""

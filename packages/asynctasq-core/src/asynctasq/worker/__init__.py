"""Turns bytes from the broker into runs, and runs into outcomes."""

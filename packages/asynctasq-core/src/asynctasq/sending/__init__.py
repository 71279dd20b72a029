"""Turns calls into bytes in the broker, now or once a transaction has committed."""

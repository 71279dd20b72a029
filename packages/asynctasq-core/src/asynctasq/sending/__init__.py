"""From a call to bytes in the broker, now or once a transaction has committed."""

"""From bytes in the broker to a run and its outcome."""

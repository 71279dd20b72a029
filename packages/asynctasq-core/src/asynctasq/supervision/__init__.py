"""Running a worker process: signals, the watchdog, and a supervisor for several."""

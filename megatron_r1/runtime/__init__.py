"""Services of a running rank: heartbeats, signals, watchdog, locks, profiling."""

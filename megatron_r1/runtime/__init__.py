"""What a rank uses while it runs: heartbeats, signals, the watchdog. Below everything that starts ranks."""

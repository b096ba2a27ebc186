"""What a run tells: metrics, samples, the progress line and report.html. Nothing here imports torch."""

"""What a run writes of itself while it runs: metrics, samples, progress. Nothing here imports torch."""

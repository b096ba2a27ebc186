"""Start the ranks of a run, watch over them, and say in words which one failed and why."""

"""Estimates of a run before it starts: memory by rank and phase, communication, FLOPs and hours."""

"""What a run will need before it starts: memory by rank and phase, bytes over the links, FLOPs and hours."""

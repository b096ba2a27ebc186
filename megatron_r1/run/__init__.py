"""A run: its configuration, its chain of stages, and what they leave in its directory."""

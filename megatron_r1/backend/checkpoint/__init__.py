"""Checkpoints of a policy: written in any layout, read in any other, complete or absent."""

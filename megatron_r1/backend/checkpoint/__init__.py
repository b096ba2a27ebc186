"""Checkpoints of a policy: written by any layout, read by any other, complete or absent."""

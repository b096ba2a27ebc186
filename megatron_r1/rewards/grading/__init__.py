"""Graders that may hang or crash, in worker processes that can be killed."""

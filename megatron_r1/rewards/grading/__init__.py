"""Grading in worker processes that can be killed, for graders that may hang or crash."""

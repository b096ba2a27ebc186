"""Measuring a policy on held-out questions: what is asked, how it is graded, metrics by domain."""

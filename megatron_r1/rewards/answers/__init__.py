"""Finds the answer in a response and compares it with the reference."""

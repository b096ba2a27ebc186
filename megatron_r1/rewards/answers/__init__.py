"""What the answer of a response is, and whether it equals the reference."""

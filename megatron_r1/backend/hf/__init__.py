"""Checkpoints from and to Hugging Face's files, and the proof that the logits agree."""

"""Convert checkpoints from and to Hugging Face's files, and verify that the logits agree."""

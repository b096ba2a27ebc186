"""Tokenizers: sentencepiece models and Hugging Face's tokenizer.json under one protocol."""

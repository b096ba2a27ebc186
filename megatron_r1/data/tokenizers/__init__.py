"""Tokenizers: sentencepiece models and Hugging Face's tokenizer.json, behind one protocol."""

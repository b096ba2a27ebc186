"""Hugging Face's files: safetensors, config.json and FP8 blocks. No Megatron, no transformers, no pickle."""

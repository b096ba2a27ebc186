"""DeepSeek-R1, whole, on Megatron-Core."""

__version__ = "0.1.0"

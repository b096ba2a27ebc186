"""Sampling: a built-in continuous-batching engine over the live weights, and Megatron's and NeMo's."""

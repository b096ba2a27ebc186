"""Reads and writes Hugging Face's files: safetensors, config.json, FP8 blocks. No Megatron, no pickle."""

from megatron_r1.huggingface.fp8 import dequantize, quantize
from megatron_r1.huggingface.source import Plan, Source, Stream, shape_differences

__all__ = ["Plan", "Source", "Stream", "dequantize", "quantize", "shape_differences"]

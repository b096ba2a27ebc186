"""DeepSeek-R1, whole, on Megatron-Core."""

__version__ = "0.1.0"

VERBOSE = "MEGATRON_R1_VERBOSE"  # an environment variable: show what libraries say of themselves, too

"""Hides warnings about Megatron's and torch's internals that every good start prints; others stay visible.

A user can't act on any of them; `megatron-r1 doctor` says which libraries are missing and what for. `-v` (or
MEGATRON_R1_VERBOSE=1, which the ranks inherit) shows everything.
"""

import logging
import os
import warnings

from megatron_r1 import VERBOSE

MESSAGES = (
    # Megatron's own kernels and torch's are used instead
    r"(Transformer Engine and )?Apex (is|are) not installed",
    # printed while Megatron imports its own modules or makes its own defaults
    "full scope is deprecated",
    "MimoModelConfig is experimental",
    # one process reads a checkpoint of several ranks on purpose
    "torch.distributed is disabled, unavailable or uninitialized",
    "The argument order of load has been changed",
)
# each logs one line a rank at WARNING: "GPTModel is deprecated", "full_param_layout not provided", "no CUDA"
LOGGERS = (
    "megatron.core.models.gpt.gpt_model",
    "megatron.core.distributed.distributed_data_parallel",
    "torch.utils.cpp_extension",
)


def install() -> None:
    """Call it before Megatron is imported: some warnings come with the import."""
    if os.environ.get(VERBOSE):
        return
    for message in MESSAGES:
        warnings.filterwarnings("ignore", message=message)
    for category in (DeprecationWarning, FutureWarning):  # about calls inside and between these libraries
        warnings.filterwarnings("ignore", category=category, module=r"megatron\.|torch\.")
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)

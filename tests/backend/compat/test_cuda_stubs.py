"""The stand-ins leave the rest of torch as it was."""

import subprocess
import sys

PROGRAM = """
import torch
from megatron_r1.backend.compat import cuda_stubs
cuda_stubs.install()
with torch.device("meta"):
    made = [torch.arange(3), torch.zeros(3), torch.empty(3), torch.tensor([1])]
assert all(tensor.is_meta for tensor in made), made
"""


def test_a_device_context_still_reaches_the_wrapped_factories():
    """transformers' from_pretrained needs it: its buffers were garbage otherwise."""
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)

import subprocess
import sys

PROBE = """
import torch
torch.cuda.is_available = lambda: {cuda}
names = ("Stream", "Event", "current_device", "synchronize", "stream")
before = {{name: vars(torch.cuda)[name] for name in names}}
methods = (torch.Tensor.type, torch.Tensor.cuda, torch.nn.Module.cuda, torch.empty, torch.zeros)
from megatron_r1.backend import cuda_standins
cuda_standins.install()
same = all(vars(torch.cuda)[name] is value for name, value in before.items())
now = (torch.Tensor.type, torch.Tensor.cuda, torch.nn.Module.cuda, torch.empty, torch.zeros)
print(same and all(a is b for a, b in zip(methods, now)), torch.cuda.Stream is cuda_standins.NoStream)
"""


def _probe(*, cuda: bool) -> str:
    command = [sys.executable, "-W", "ignore", "-c", PROBE.format(cuda=cuda)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_with_cuda_the_stand_ins_replace_nothing():
    assert _probe(cuda=True) == "True False"


def test_without_cuda_they_are_in_place():
    assert _probe(cuda=False) == "False True"

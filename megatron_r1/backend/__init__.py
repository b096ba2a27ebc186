"""Everything that touches Megatron-Core: the only package that imports megatron.*

The stand-ins for torch.cuda go in before any module of this package can import megatron.
"""

from megatron_r1.backend.cuda_standins import install

install()

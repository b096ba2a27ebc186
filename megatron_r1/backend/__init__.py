"""Everything that touches Megatron-Core: the only package that imports megatron.*

The stubs for torch.cuda and the warning filters are installed here, before any module can import megatron.
"""

from megatron_r1.backend.compat import cuda_stubs, quiet

quiet.install()
cuda_stubs.install()

"""Everything that touches Megatron-Core: the only package that imports megatron.*

Before any module of this package can import megatron, the stand-ins for torch.cuda go in and the libraries
are made quiet.
"""

from megatron_r1.backend.compat import cuda_stubs, quiet

quiet.install()
cuda_stubs.install()

"""Everything that touches Megatron-Core: the only package that imports megatron.*

Before any module of this package can import megatron, the stand-ins for torch.cuda go in and the libraries
are made quiet: what they say at import is about their own internals, nothing that a user could act on;
`doctor` says the rest.
"""

import logging
import warnings

from megatron_r1.backend.cuda_standins import install

warnings.filterwarnings("ignore", module=r"megatron\.|torch\.distributed")
for _name in ("megatron", "torch.utils.cpp_extension"):
    logging.getLogger(_name).setLevel(logging.ERROR)

install()

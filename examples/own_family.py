"""Your own model family: a dense decoder with biases on query, key and value and normalised heads.

DenseConfig has all that Qwen2, Qwen3 and Llama share: sizes, Megatron's configuration, the table of weights.
A family states what is different. For another attention or other experts derive from FamilyConfig and write
`shape`, `transformer_config` and `weight_rows` (megatron_r1/models/deepseek_v3.py has the longest ones).
With an `hf_architecture` of transformers' the family also converts from and to Hugging Face's files.
"""

from typing import ClassVar, Literal

from megatron_r1.models.dense import DenseConfig


class OwnFamily(DenseConfig):
    """The shape of such a model."""

    family: Literal["own_family"]  # its name in the YAML
    qkv_bias: ClassVar[bool] = True  # as Qwen2
    qk_norm: ClassVar[bool] = True  # as Qwen3


FAMILY = OwnFamily

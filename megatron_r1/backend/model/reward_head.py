"""Reward head: one value a token in the place of the lm_head, which turns a policy into a reward model.

It replaces the output layer on the last pipeline stage; everything before it, and every layout, is as in the
policy. Checkpoints name its weight score_head.weight, so an output layer can't be loaded into it by mistake.
"""

# R tokens of this rank: T / cp of its context rank, with sequence parallelism T / cp / tp; h hidden

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import Tensor

from megatron_r1.backend.parallel.process_groups import device
from megatron_r1.models.shape import FamilyConfig

NAME = "score_head"
# prefixes of a language model's weights that a reward model doesn't have
LANGUAGE_ONLY = ("output_layer.", "mtp.")


class ScoreHead(torch.nn.Module):
    """One value a token. Not sharded: Megatron sums its gradient over the tensor ranks."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1, config.hidden_size, dtype=config.params_dtype))
        self.sequence_parallel = config.sequence_parallel
        # by this mark finalize_model_grads sums the gradient over the tensor ranks, as for norms
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden: [R, 1, h]. Returns [T / cp] float32, the same on every tensor rank."""
        values = F.linear(hidden.float(), self.weight.float())
        if self.sequence_parallel:
            # every tensor rank computes the whole loss, so backward slices instead of summing
            values = gather_from_sequence_parallel_region(values, tensor_parallel_output_grad=False)
        return values[:, 0, 0]

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: Sequence[Any] = (), metadata: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        named = make_sharded_tensors_for_checkpoint(
            {"weight": self.weight},
            f"{NAME}.",
            sharded_offsets=sharded_offsets,  # type: ignore[arg-type]
            tp_group=parallel_state.get_tensor_model_parallel_group(),
            dp_cp_group=parallel_state.get_data_parallel_group(with_context_parallel=True),
        )
        return {f"{prefix}weight": named[f"{NAME}.weight"]}


def without_language_head(family: FamilyConfig) -> FamilyConfig:
    """The family for a reward model: without MTP layers and tied embeddings."""
    changes = {"tie_embeddings": False, "mtp_layers": 0}
    known = {name: value for name, value in changes.items() if name in type(family).model_fields}
    return family.model_copy(update=known)


def attach(chunks: Sequence[GPTModel]) -> None:
    """Replace the output layer on the chunk that has it."""
    for chunk in chunks:
        if chunk.post_process:
            chunk.output_layer = ScoreHead(chunk.config).to(device())  # type: ignore[assignment]

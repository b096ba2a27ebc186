"""A scalar in the place of the vocabulary: what makes a reward model of a policy's architecture.

It takes the output layer's place on the last pipeline stage, so that everything before it, and every layout,
is the policy's own. Checkpoints name its weight score_head.weight: an output layer can't be read into it.
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
# of a language model's checkpoint: what a reward model has no use for
LANGUAGE_ONLY = ("output_layer.", "mtp.")


class ScoreHead(torch.nn.Module):
    """One value a token; whole on every tensor rank, whose tokens' gradients Megatron adds up."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1, config.hidden_size, dtype=config.params_dtype))
        self.sequence_parallel = config.sequence_parallel
        # finalize_model_grads sums the gradient over the tensor ranks, as it does for norms
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden: [R, 1, h]. Returns [T / cp] float32, the same on every tensor rank."""
        values = F.linear(hidden.float(), self.weight.float())
        if self.sequence_parallel:
            # every tensor rank computes the whole loss: backward only takes the rank's own part
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
    """The family as a reward model has it: no MTP layers, no output that shares the embedding's weights."""
    changes = {"tie_embeddings": False, "mtp_layers": 0}
    known = {name: value for name, value in changes.items() if name in type(family).model_fields}
    return family.model_copy(update=known)


def attach(chunks: Sequence[GPTModel]) -> None:
    """Replace the output layer, on the chunk that has it."""
    for chunk in chunks:
        if chunk.post_process:
            chunk.output_layer = ScoreHead(chunk.config).to(device())  # type: ignore[assignment]

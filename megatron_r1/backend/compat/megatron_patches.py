"""Patches of megatron-core 0.19.2, each with the line that it replaces.

Layer specs (backend/model/attention.py, backend/model/norms.py) are preferred; these patches are for code
that no spec can replace. `apply()` runs when the first model is built.
"""

from typing import Any

import megatron.core.inference.communication_utils as communication_utils
import megatron.core.models.gpt.gpt_model as gpt_model
import megatron.core.tensor_parallel.mappings as mappings
import megatron.core.tensor_parallel.random as tp_random
import megatron.core.transformer.moe.token_dispatcher as token_dispatcher
import megatron.core.transformer.multi_token_prediction as multi_token_prediction
import torch
import torch.distributed as dist
from megatron.core.transformer.mla_qk_norm_config import QKNormConfigResolver
from torch import Tensor


def apply() -> None:
    """Apply the patches that this machine needs; safe to call again."""
    multi_token_prediction._roll_tensor_packed_seq = _roll_packed
    gpt_model.process_mtp_loss = _no_mtp_loss
    QKNormConfigResolver._mla_fused_linear_or_default = _no_norm_before_a_full_query
    if not torch.cuda.is_available():
        token_dispatcher.maybe_move_tensor_to_cpu = _split_sizes_on_host
        mappings._gather_along_first_dim = _gather_uneven
        mappings._reduce_scatter_along_first_dim = _reduce_scatter_uneven
        # communication_utils.py:31 asserts that tensors sent through a pipeline in inference are on a GPU
        communication_utils._is_cuda = lambda tensor: None
        if not hasattr(tp_random, "FP8GlobalStateManager"):
            _patch_selective_recompute()


# gpt_model.py:645 calls it whenever the model has MTP layers; backend/train/forward.py runs MTP and its loss
# itself.
def _no_mtp_loss(*, hidden_states: Tensor, **rest: Any) -> Tensor:
    return hidden_states


# multi_token_prediction.py:238 loops over the sequences of a pack in Python (64 sequences: 5 ms a call).
_roll_packed_upstream = multi_token_prediction._roll_tensor_packed_seq


def _roll_packed(
    tensor: Tensor, shifts: int, dims: int, packed_seq_params: Any, cp_group: Any = None
) -> tuple[Tensor, Tensor]:
    """tensor [..., T] moved one token to the left in each sequence; the last token of each becomes 0."""
    if cp_group is not None and cp_group.size() > 1:
        return _roll_packed_upstream(tensor, shifts, dims, packed_seq_params, cp_group)
    rolled = tensor.roll(-1, dims=-1)
    rolled[..., packed_seq_params.cu_seqlens_q[1:].long() - 1] = 0
    return rolled, rolled.sum()


# mla_qk_norm_config.py:148 requires a norm fused into linear_q_proj where the query has no latent. V2-Lite
# and Moonlight have no such norm.
_fused_linear_upstream = QKNormConfigResolver._mla_fused_linear_or_default


def _no_norm_before_a_full_query(self: QKNormConfigResolver, module_spec: Any, module_name: str) -> Any:
    if module_name == "linear_q_proj":
        return module_spec or self.linear_impl
    return _fused_linear_upstream(self, module_spec, module_name)


# token_dispatcher.py: maybe_move_tensor_to_cpu leaves CPU tensors as they are, but gloo's all_to_all takes
# only plain numbers; a numpy array works for it and for the splits under expert tensor parallelism.
def _split_sizes_on_host(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
    return tensor.numpy() if as_numpy and isinstance(tensor, Tensor) else tensor


# mappings.py:154 gathers and :197 reduces pieces of unequal sizes (an expert's tokens, if expert and
# expert_tensor are above 1); gloo takes only equal sizes.
_gather_upstream = mappings._gather_along_first_dim
_reduce_scatter_upstream = mappings._reduce_scatter_along_first_dim


def _gather_uneven(
    piece: Tensor, group: Any, output_split_sizes: list[int] | None = None, use_global_buffer: bool = False
) -> Tensor:
    """piece: [own size, ...] of each rank -> [sum of the sizes, ...] on all."""
    if output_split_sizes is None or group.size() == 1:
        return _gather_upstream(piece, group, output_split_sizes, use_global_buffer)
    padded = piece.new_zeros(max(output_split_sizes), *piece.shape[1:])
    padded[: len(piece)] = piece
    pieces = [torch.empty_like(padded) for _ in output_split_sizes]
    dist.all_gather(pieces, padded, group=group)
    return torch.cat([one[:size] for one, size in zip(pieces, output_split_sizes, strict=True)])


def _reduce_scatter_uneven(
    whole: Tensor, group: Any, input_split_sizes: list[int] | None = None, use_global_buffer: bool = False
) -> Tensor:
    """whole: [sum of the sizes, ...] of each rank -> [own size, ...] of the ranks' sum."""
    if input_split_sizes is None or group.size() == 1:
        return _reduce_scatter_upstream(whole, group, input_split_sizes, use_global_buffer)
    total = whole.contiguous().clone()
    dist.all_reduce(total, group=group)
    return total.split(input_split_sizes)[group.rank()].contiguous()


class _NoFP8:
    """The part of Transformer Engine that selective recompute uses (tensor_parallel/random.py)."""

    @staticmethod
    def is_fp8_enabled() -> bool:
        return False


def _patch_selective_recompute() -> None:
    import contextlib

    tp_random.FP8GlobalStateManager = _NoFP8  # type: ignore[attr-defined]
    tp_random.activation_recompute_forward = lambda **kwargs: contextlib.nullcontext()  # type: ignore[attr-defined]
    tp_random.fp8_autocast = lambda **kwargs: contextlib.nullcontext()  # type: ignore[attr-defined]

"""Forward pass of a pack: log-probs of its labels, their entropy and the MTP loss.

Megatron's `output_processor` hook gives the last hidden states; logits exist only in
backend/model/lm_head.py. MTP runs here instead of inside GPTModel, which normalises its loss by each rank's
and micro-batch's own token count, so that it changes with the layout (with context parallelism by 3e-5 in
five steps). Here it has the weights of the main loss, as in DeepSeek-V3's eq. 24.
"""

# T tokens of the pack (T / cp on a context rank), h hidden, V/tp vocabulary shard

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.multi_token_prediction import roll_tensor
from megatron.core.utils import unwrap_model
from torch import Tensor

from megatron_r1.backend.model.attention import Pack, describe_pack
from megatron_r1.backend.model.lm_head import LmHead
from megatron_r1.backend.model.reward_head import ScoreHead
from megatron_r1.backend.model.router import counting_of, shard, show_pack
from megatron_r1.backend.model.top_p_mask import pairs
from megatron_r1.types import PackedBatch


@dataclass(frozen=True, slots=True)
class Output:
    """Results for one pack on the last pipeline stage, of this context rank's tokens.

    mtp_loss: the weighted sum."""

    logprobs: Tensor  # [T / cp]; with a reward head, the value at each input
    entropy: Tensor | None  # [T / cp]
    mtp_loss: Tensor | None  # []

    @property
    def device(self) -> torch.device:
        """Megatron's schedule reads it (schedules.py, get_tensor_device)."""
        return self.logprobs.device


@dataclass(frozen=True, slots=True)
class ForwardOptions:
    """Without prompt_logits, log-probs and entropy are 0 where the weight is 0."""

    temperature: float = 1.0
    entropy: bool = False
    mtp: bool = False
    max_logits: int | None = None  # the most that a rank holds at once (backend/model/lm_head.py)
    prompt_logits: bool = False  # compute logits of tokens of weight 0 too


@dataclass(frozen=True, slots=True)
class _Inputs:
    """A pack as this context rank sees it."""

    tokens: Tensor  # [1, T / cp]
    labels: Tensor  # [T / cp]
    weights: Tensor  # [T / cp]
    pack: Pack
    allowed: tuple[Tensor, Tensor] | None = None  # top_p_mask.pairs


def forward(model: torch.nn.Module, batch: PackedBatch, options: ForwardOptions) -> Output | Tensor:
    """One micro-batch on this pipeline stage: hidden states to send on, or the Output of the last stage."""
    chunk: GPTModel = unwrap_model(model)
    inputs = _inputs_of(batch, chunk)

    with _own_mtp(chunk):
        return model(**_arguments(inputs), output_processor=_processor(chunk, inputs, options))


def plan(chunk: GPTModel, batch: PackedBatch, options: ForwardOptions) -> Any:
    """Megatron's plan of `forward`, for the schedule that interleaves the layers of two micro-batches.

    Its result on the last stage must be a tensor, which `unstacked` turns into an Output.
    """
    inputs = _inputs_of(batch, chunk)
    show_pack(chunk, inputs.pack)  # safe: a plan runs before the next one is made
    process = _processor(chunk, inputs, options)

    def stacked(**given: Any) -> Tensor:
        output = process(**given)
        rows = [output.logprobs, output.entropy, output.mtp_loss]
        nothing = torch.zeros_like(output.logprobs)
        return torch.stack([nothing if row is None else nothing + _padded(row, len(nothing)) for row in rows])

    with _without_mtp(chunk):
        return chunk.build_schedule_plan(**_arguments(inputs), output_processor=stacked)


def _padded(row: Tensor, length: int) -> Tensor:
    return row if row.dim() else F.pad(row[None], (0, length - 1))


def unstacked(output: Tensor, chunk: GPTModel, options: ForwardOptions) -> Output:
    """output: [3, T / cp]: log-probs, entropy, and the MTP loss as the first element; 0 for what is
    missing."""
    logprobs, entropy, mtp = output
    has_mtp = options.mtp and chunk.config.mtp_num_layers
    return Output(logprobs, entropy if options.entropy else None, mtp.sum() if has_mtp else None)


@contextmanager
def _without_mtp(chunk: GPTModel) -> Iterator[None]:
    """Within: the chunk runs no MTP layers; `_head` runs them."""
    mtp = chunk._modules.pop("mtp", None)
    try:
        yield
    finally:
        if mtp is not None:
            chunk.mtp = mtp


def _arguments(inputs: "_Inputs") -> dict[str, Any]:
    return {
        "input_ids": inputs.tokens,
        "position_ids": inputs.pack.positions[None],  # type: ignore[index]
        "attention_mask": None,
        "packed_seq_params": inputs.pack,
    }


def _processor(chunk: GPTModel, inputs: "_Inputs", options: ForwardOptions) -> Callable[..., Output]:
    """The function that the chunk with the lm_head calls on its last hidden states."""

    def head(
        *, hidden_states: Tensor, output_layer: Any, output_weight: Tensor | None, **rest: Any
    ) -> Output:
        if isinstance(output_layer, ScoreHead):
            return Output(output_layer(hidden_states), None, None)
        project = LmHead(output_layer, output_weight, options.max_logits)
        return _head(chunk, inputs, hidden_states, project, options)

    return head


def _head(chunk: GPTModel, inputs: _Inputs, hidden: Tensor, head: LmHead, options: ForwardOptions) -> Output:
    mtp_loss = None
    if options.mtp and chunk.config.mtp_num_layers:
        mtp_loss = _mtp_loss(chunk, inputs, hidden, head)
    logprobs, entropy = head(
        hidden,
        inputs.labels,
        temperature=options.temperature,
        entropy=options.entropy,
        allowed=inputs.allowed,
        counted=None if options.prompt_logits else inputs.weights != 0,
    )
    return Output(logprobs, entropy, mtp_loss)


def _mtp_loss(chunk: GPTModel, inputs: _Inputs, hidden: Tensor, head: LmHead) -> Tensor:
    """DeepSeek-V3, eq. 24 and 25: the mean over depths of each depth's weighted cross entropy."""
    rotary = chunk._preprocess(inputs.tokens, inputs.pack.positions, decoder_input=hidden,
                               packed_seq_params=inputs.pack)[1]  # fmt: skip
    states = chunk.mtp(
        input_ids=inputs.tokens,
        position_ids=inputs.pack.positions[None],  # type: ignore[index]
        hidden_states=hidden,
        attention_mask=None,
        rotary_pos_emb=rotary,
        packed_seq_params=inputs.pack,
        embedding=chunk.embedding,
    )
    depths = chunk.config.mtp_num_layers
    labels, weights = inputs.labels[None], inputs.weights[None]
    total = hidden.new_zeros((), dtype=torch.float32)
    for state in states.chunk(1 + depths)[1:]:
        labels, weights = _next_token(labels, inputs.pack), _next_token(weights, inputs.pack)
        total = total - (head(state, labels[0])[0] * weights[0]).sum()
    return total * (chunk.config.mtp_loss_scaling_factor / depths)


def _next_token(values: Tensor, pack: Pack) -> Tensor:
    """[1, T / cp], shifted one token to the left in each sequence; 0 at its end."""
    group = parallel_state.get_context_parallel_group()
    return roll_tensor(values, shifts=-1, dims=-1, cp_group=group, packed_seq_params=pack)[0]


def _inputs_of(batch: PackedBatch, chunk: GPTModel) -> _Inputs:
    cp_size = parallel_state.get_context_parallel_world_size()
    pack = describe_pack(
        batch.cu_seqlens,
        cp_rank=parallel_state.get_context_parallel_rank(),
        cp_size=cp_size,
        qkv_format="thd" if chunk.config.transformer_impl == "transformer_engine" else "packed",
    )
    tokens, labels, weights = batch.tokens, batch.labels, batch.weights
    if pack.local is not None:
        tokens, labels, weights = tokens[pack.local], labels[pack.local], weights[pack.local]
    if chunk.config.num_moe_experts:
        pack.routes = None if batch.routes is None else shard(batch.routes, pack.local, chunk.config)
        pack.counting = counting_of(batch, pack.local, chunk.config)
    allowed = None if batch.nucleus is None else pairs(batch.nucleus, pack.local)
    return _Inputs(tokens[None], labels, weights, pack, allowed)


@contextmanager
def _own_mtp(chunk: GPTModel) -> Iterator[None]:
    """Within: GPTModel doesn't run its MTP part; `_head` runs it."""
    process, chunk.mtp_process = chunk.mtp_process, False
    try:
        yield
    finally:
        chunk.mtp_process = process

"""The fallback decoder for every model: Megatron's own modules with StaticInferenceContext.

Calls are collective over tensor, pipeline and expert ranks; each data-parallel rank feeds its own sequences.
"""

# B rows, W tokens fed a row, V vocabulary

from collections.abc import Sequence
from typing import ClassVar

import torch
from megatron.core import parallel_state
from megatron.core.inference.contexts import StaticInferenceContext
from megatron.core.models.gpt.gpt_model import GPTModel
from torch import Tensor

from megatron_r1.backend.rollout.decoder.pipeline import Stage, through_pipeline
from megatron_r1.errors import ConfigError


class ModuleDecoder:
    """batch_scheduler.Decoder over a pipeline of Megatron modules, interleaved or not.

    The context has one offset for all rows: prompts enter together, left-padded to end in the same column.
    """

    pads_left: ClassVar = True
    refills: ClassVar = False
    width: ClassVar = 1

    def __init__(self, chunks: Sequence[GPTModel], *, rows: int, length: int) -> None:
        if parallel_state.get_context_parallel_world_size() > 1:
            raise ConfigError(
                "rollout.layout: Megatron's modules, through which this model samples, cut RoPE's tables for "
                "context ranks; set rollout.layout.context: 1"
            )
        self.chunks, self.length = chunks, length

    def prefill(self, tokens: Tensor, positions: Tensor, *, max_tokens: int) -> Tensor:
        context = StaticInferenceContext(tokens.shape[0], self.length)
        # [U, length]: the columns that a query may attend to
        ahead = positions.new_zeros(positions.shape[0], self.length - positions.shape[1])
        self.newest = _Rows(context, visible=torch.cat([positions, ahead], dim=1) >= 0)
        logits = self._feed(self.newest, tokens)
        context.enable_decode_mode()
        return logits

    def enter(self, prompts: Tensor) -> None:
        self.batch = self.newest
        self.batch.keep(prompts)

    def decode(self, tokens: Tensor, positions: Sequence[int], *, max_tokens: int) -> Tensor:
        return self._feed(self.batch, tokens)[:, None]

    def keep(self, rows: Tensor) -> None:
        self.batch.keep(rows)

    def _feed(self, rows: "_Rows", tokens: Tensor) -> Tensor:
        count, width = tokens.shape
        context, config = rows.context, self.chunks[0].config
        # a dummy row may outlive the longest completion: it feeds the last column again
        context.sequence_len_offset = min(context.sequence_len_offset, self.length - width)
        logits = through_pipeline(
            [self._stage(chunk, rows, tokens) for chunk in self.chunks],
            hidden=(width, count, config.hidden_size),
            dtype=config.params_dtype,
            logits=(count, self.chunks[0].vocab_size),
        )
        context.sequence_len_offset += width
        return logits

    def _stage(self, chunk: GPTModel, rows: "_Rows", tokens: Tensor) -> Stage:
        offset, (count, width) = rows.context.sequence_len_offset, tokens.shape
        positions = offset + torch.arange(width, device=tokens.device)

        def stage(received: Tensor | None) -> Tensor:
            if received is not None:
                chunk.set_input_tensor(received)
            output = chunk(
                tokens,
                positions[None].expand(count, -1),
                rows.mask(offset, width),
                inference_context=rows.context,
                runtime_gather_output=True,
            )
            return output[:, -1] if chunk.post_process else output

        return stage


class _Rows:
    """An inference context and the columns that its rows may attend to."""

    def __init__(self, context: StaticInferenceContext, visible: Tensor) -> None:
        """visible: [B, length] bool."""
        self.context, self.visible = context, visible

    def keep(self, rows: Tensor) -> None:
        """Row i becomes the former row rows[i]."""
        self.visible = self.visible[rows]
        memory = self.context.key_value_memory_dict
        for layer, (key, value) in memory.items():
            memory[layer] = (key[:, rows], value[:, rows])
        self.context.max_batch_size = len(rows)

    def mask(self, offset: int, width: int) -> Tensor:
        """[B, 1, queries, keys] bool, True where a query must not attend."""
        visible = self.visible[:, None, : offset + width]
        if width == 1 and offset:
            return ~visible[:, None]
        causal = torch.ones(width, width, dtype=torch.bool, device=visible.device).tril()
        # a padded query sees itself: a softmax over nothing is NaN
        itself = torch.eye(width, dtype=torch.bool, device=visible.device)
        return ~((causal & visible) | itself)[:, None]

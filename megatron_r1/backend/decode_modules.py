"""The decoder for every layout: Megatron's modules with StaticInferenceContext, in the training layout.

Tensor, pipeline and expert ranks all take part in every call, each with the rows of its own replica.
"""

# B rows, W tokens fed a row, V vocabulary

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.inference.contexts import StaticInferenceContext
from megatron.core.models.gpt.gpt_model import GPTModel
from torch import Tensor


class ModuleDecoder:
    """flight.Decoder over a pipeline of Megatron modules, interleaved or not.

    The context has one offset for all rows, so that prompts enter together and end in the same column.
    """

    pads_left: ClassVar = True
    refills: ClassVar = False

    def __init__(self, chunks: Sequence[GPTModel], *, rows: int, length: int) -> None:
        self.chunks, self.length = chunks, length

    def prefill(self, tokens: Tensor, places: Tensor) -> Tensor:
        context = StaticInferenceContext(tokens.shape[0], self.length)
        # [U, length]: what a query may look at
        ahead = places.new_zeros(places.shape[0], self.length - places.shape[1])
        self.newest = _Rows(context, visible=torch.cat([places, ahead], dim=1) >= 0)
        logits = self._feed(self.newest, tokens)
        context.enable_decode_mode()
        return logits

    def enter(self, prompts: Tensor) -> None:
        self.batch = self.newest
        self.batch.keep(prompts)

    def decode(self, tokens: Tensor, places: Sequence[int]) -> Tensor:
        return self._feed(self.batch, tokens[:, None])

    def keep(self, rows: Tensor) -> None:
        self.batch.keep(rows)

    def _feed(self, rows: "_Rows", tokens: Tensor) -> Tensor:
        width = tokens.shape[1]
        # a dummy row may outlive the longest output: it feeds the last place again
        offset = min(rows.context.sequence_len_offset, self.length - width)
        rows.context.sequence_len_offset = offset
        logits = self._pipelined(rows.context, tokens, rows.mask(offset, width))
        rows.context.sequence_len_offset = offset + width
        return logits

    def _pipelined(self, context: StaticInferenceContext, tokens: Tensor, mask: Tensor) -> Tensor:
        """[B, V] logits of the last position, on every pipeline rank."""
        size = parallel_state.get_pipeline_model_parallel_world_size()
        rank = parallel_state.get_pipeline_model_parallel_rank()
        output = None
        for i, chunk in enumerate(self.chunks):  # the whole model is chunk 0 of all ranks, then chunk 1 ...
            if i > 0 or rank > 0:
                chunk.set_input_tensor(self._received(chunk, tokens))
            output = self._run(chunk, context, tokens, mask)
            if i + 1 < len(self.chunks) or rank + 1 < size:
                dist.send(output.contiguous(), parallel_state.get_pipeline_model_parallel_next_rank())
                output = None
        if size == 1:
            assert output is not None
            return output[:, -1]
        if output is None:
            logits = torch.empty(tokens.shape[0], self.chunks[0].vocab_size, device=tokens.device)
        else:
            logits = output[:, -1].float().contiguous()
        source = parallel_state.get_pipeline_model_parallel_last_rank()
        group: Any = parallel_state.get_pipeline_model_parallel_group()
        dist.broadcast(logits, source, group=group)
        return logits

    def _received(self, chunk: GPTModel, tokens: Tensor) -> Tensor:
        """[W, B, h] from the rank before; the first rank's is the last."""
        config = chunk.config
        shape = (tokens.shape[1], tokens.shape[0], config.hidden_size)
        hidden = torch.empty(shape, dtype=config.params_dtype, device=tokens.device)
        dist.recv(hidden, parallel_state.get_pipeline_model_parallel_prev_rank())
        return hidden

    def _run(self, chunk: GPTModel, context: StaticInferenceContext, tokens: Tensor, mask: Tensor) -> Tensor:
        positions = context.sequence_len_offset + torch.arange(tokens.shape[1], device=tokens.device)
        return chunk(
            tokens,
            positions[None].expand(tokens.shape[0], -1),
            mask,
            inference_context=context,
            runtime_gather_output=True,
        )


class _Rows:
    """A context and what its rows see of it."""

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
        """[B, 1, queries, keys] bool, True where a query must not look."""
        visible = self.visible[:, None, : offset + width]
        if width == 1 and offset:
            return ~visible[:, None]
        causal = torch.ones(width, width, dtype=torch.bool, device=visible.device).tril()
        # a padded query sees itself, or its softmax has nothing to sum
        itself = torch.eye(width, dtype=torch.bool, device=visible.device)
        return ~((causal & visible) | itself)[:, None]

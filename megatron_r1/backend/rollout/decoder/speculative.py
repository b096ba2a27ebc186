"""Self-speculative decoding: the MTP layer drafts a token, and the model verifies it in the next step.

A step feeds two tokens a sequence, the newest and the draft of the one after it, and samples after both. The
MTP layer takes the lm_head's input at position i and the embedding of token i + 1, and drafts token i + 2
(DeepSeek-V3, 2412.19437, eq. 21-23; trained by backend/train/forward.py). Its cache therefore lags the
model's by one position.

It is exact without an acceptance rule. The draft is drawn from the MTP layer's distribution, and the verified
token from the model's, with the same uniform number of that key and position (backend/rollout/sampling.py);
the model's token always counts. Where both agree, the token sampled after the draft counts too; where they
don't, the next step overwrites the draft in the caches. Completions are those without speculation, token by
token, at any temperature and top_p, but for rounding where two tokens nearly tie; log-probs are the model's.
The rule of Leviathan et al., 2211.17192, keeps the distribution but not the draws and would accept a little
more often: benchmarks/speculation.py measures both.
"""

# B rows, W = 2 tokens fed a row, in Megatron's order [W, B], h hidden, V vocabulary

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from megatron.core.models.gpt.gpt_model import GPTModel
from torch import Tensor

from megatron_r1.backend.rollout.decoder.attention import Position, whole
from megatron_r1.backend.rollout.decoder.decoder import Layer, LeanDecoder, head, output_weight
from megatron_r1.backend.rollout.decoder.pipeline import from_last_stage
from megatron_r1.backend.rollout.fp8 import RolloutPrecision


class DraftingDecoder(LeanDecoder):
    """LeanDecoder for two tokens a sequence, the second of them a draft."""

    width: ClassVar = 2

    def __init__(
        self,
        chunks: Sequence[GPTModel],
        *,
        rows: int,
        length: int,
        precision: RolloutPrecision | None = None,
    ) -> None:
        super().__init__(chunks, rows=rows, length=length, precision=precision)
        self.mtp: MtpLayer | None = None  # on the last pipeline rank, with the lm_head
        # inputs of the lm_head: [W, B, h] of the batch, [U, h] at the ends of the newest prompts
        self.hidden = self.hidden_of_newest = torch.zeros(0)
        if chunks[-1].mtp_process:
            self.mtp = MtpLayer(chunks[-1], self.length, precision)
            self.attentions.append(self.mtp.layer.attention)

    def prefill(self, tokens: Tensor, positions: Tensor, *, max_tokens: int) -> Tensor:
        logits = super().prefill(tokens, positions, max_tokens=max_tokens)
        if self.mtp is not None:
            count, width = tokens.shape
            # the token after each prompt's end isn't known yet; the first draft overwrites that position
            following = tokens.roll(-1, dims=1).t().flatten()
            self.mtp(
                self._states(), following, self.newest[-1], Position.of_prompts(width, max_tokens=max_tokens)
            )
            ends = positions.argmax(1), torch.arange(count, device=positions.device)
            self.hidden_of_newest = self._states().view(width, count, -1)[ends]
        return logits

    def enter(self, prompts: Tensor) -> None:
        super().enter(prompts)
        if self.mtp is not None:
            new = self.hidden_of_newest[prompts].expand(self.width, -1, -1)
            self.hidden = torch.cat([self.hidden, new], dim=1) if self.count > len(prompts) else new

    def decode(self, tokens: Tensor, positions: Sequence[int], *, max_tokens: int) -> Tensor:
        logits = super().decode(tokens, positions, max_tokens=max_tokens)
        if self.mtp is not None:
            self.hidden = self._states().view(self.width, self.count, -1)
        return logits

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        if self.mtp is not None:
            self.hidden = self.hidden[:, rows]

    def draft(self, tokens: Tensor, positions: Sequence[int], newest: Tensor, *, max_tokens: int) -> Tensor:
        """batch_scheduler.Drafter.draft."""
        logits = None
        if self.mtp is not None:
            position = Position.of_tokens(
                positions, width=self.width, max_tokens=max_tokens, device=tokens.device
            )
            cache = self.caches[-1][: self.count]
            states = self.mtp(self.hidden.flatten(0, 1), tokens.t().flatten(), cache, position)
            rows = torch.arange(self.count, device=tokens.device)
            logits = head(states[newest * self.count + rows], self.mtp.output, self.mtp.real_rows)
        return from_last_stage(logits, (self.count, self.vocab_size))

    def _states(self) -> Tensor:
        states = self.chunks[-1].states
        assert states is not None
        return states


class MtpLayer:
    """The first MTP depth: both inputs are normalised, concatenated and projected, then pass one layer."""

    def __init__(self, model: GPTModel, length: int, precision: RolloutPrecision | None) -> None:
        module: Any = model.mtp.layers[0]
        self.embedding: Any = model.embedding.word_embeddings
        self.token_norm, self.state_norm, self.final_norm = module.enorm, module.hnorm, module.final_layernorm
        self.project = module.eh_proj.weight
        self.layer = Layer(module.mtp_model_layer, model, length, precision)
        self.output = output_weight(model)
        self.real_rows: int = model.real_rows  # type: ignore[assignment]

    def __call__(self, hidden: Tensor, tokens: Tensor, cache: Tensor, position: Position) -> Tensor:
        """hidden: [W * B, h]; tokens: [W * B], one position later. Returns [W * B, h] for the lm_head."""
        joined = torch.cat([self.token_norm(self.embedding(tokens)), self.state_norm(hidden)], dim=-1)
        stream = whole(F.linear(joined, self.project), hidden.shape[-1])
        return self.final_norm(self.layer(stream, cache, position))

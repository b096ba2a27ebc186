"""Log-probs, entropies and the MTP loss next to the same written by hand."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from megatron.core import parallel_state
from torch import Tensor

from megatron_r1.backend.model.attention import describe_pack
from megatron_r1.backend.model.lm_head import LmHead
from megatron_r1.backend.model.logprobs import token_entropy, token_logprobs
from megatron_r1.config.layout import Layout
from megatron_r1.types import TrainSequence
from tests.distributed.scenarios import models
from tests.distributed.scenarios.train import cross_entropy


def by_hand(layout: Layout, shared: Path, *, temperature: float) -> dict[str, float]:
    """Largest differences to torch.log_softmax on the whole vocabulary, the gradient's among them."""
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(50, 1, 96, generator=generator)  # [T, 1, V]
    labels = torch.randint(0, 96, (50,), generator=generator)
    rank, size = (
        parallel_state.get_tensor_model_parallel_rank(),
        parallel_state.get_tensor_model_parallel_world_size(),
    )
    mine = logits.chunk(size, dim=-1)[rank].clone().requires_grad_()
    entropy = token_entropy(mine, temperature=temperature)
    logprobs = token_logprobs(mine * 1.0, labels, temperature=temperature)
    (logprobs * torch.arange(50)).sum().backward()

    whole = logits.clone().requires_grad_()
    log_softmax = torch.log_softmax(whole[:, 0] / temperature, dim=-1)
    expected = log_softmax.gather(1, labels[:, None])[:, 0]
    (expected * torch.arange(50)).sum().backward()
    assert whole.grad is not None
    assert mine.grad is not None
    return {
        "logprobs": _largest(logprobs, expected),
        "entropy": _largest(entropy, -(log_softmax.exp() * log_softmax).sum(-1)),
        "gradient": _largest(mine.grad, whole.grad.chunk(size, dim=-1)[rank]),
    }


def in_chunks(layout: Layout, shared: Path, *, family: str) -> dict[str, float]:
    """Largest differences of the output head in chunks to the same in one piece, gradients among them."""
    head = _Head.of(family, layout)
    whole, chunked = head.run(None), head.run(500)
    # in chunks: more than three, each in the forward and in the backward pass
    assert whole.calls == 1
    assert chunked.calls > 6
    return {name: _largest(chunked.values[name], value) for name, value in whole.values.items()}


COUNTED = {
    "some": lambda i: (i * 7) % 5 < 2,
    "first": lambda i: i < 19,  # of the first tensor rank alone
    "none": lambda i: i < 0,
    "all": lambda i: i >= 0,
}


def counted(layout: Layout, shared: Path, *, family: str) -> dict[str, float]:
    """Largest differences, over all of COUNTED, of a head that leaves out tokens to one that masks them."""
    head = _Head.of(family, layout)
    found: dict[str, float] = {}
    for choose in COUNTED.values():
        mask = choose(torch.arange(48))
        masked = head.run(None, mask=mask)
        for max_logits in (None, 500):
            left_out = head.run(max_logits, counted=mask, mask=mask)
            for name, value in masked.values.items():
                expected = torch.where(mask, value, 0.0) if name in ("logprobs", "entropy") else value
                difference = _largest(left_out.values[name], expected)
                found[name] = max(found.get(name, 0.0), difference)
        few = head.run(None, counted=mask, mask=mask)
        num_ranks = 48 // len(head.states)
        most = max(1, int(mask.view(num_ranks, -1).sum(1).max()))
        assert few.logits == num_ranks * most, f"{few.logits} rows of logits"
    return found


@dataclass
class _Found:
    values: dict[str, Tensor]
    calls: int  # of the output layer
    logits: int  # rows of them in the first call


@dataclass
class _Head:
    """An output layer with states and labels to put in."""

    chunk: Any
    tied: Tensor | None
    states: Tensor  # [48 / tp, 1, h]
    labels: Tensor  # [48]
    allowed: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, family: str, layout: Layout) -> "_Head":
        chunk = models.policy(family, layout, seed=4).chunks[0]
        shares = chunk.share_embeddings_and_output_weights
        num_ranks = layout.tensor if chunk.config.sequence_parallel else 1
        generator = torch.Generator().manual_seed(3)
        labels = torch.randint(0, models.VOCABULARY, (48,), generator=generator)
        states = torch.randn(48 // num_ranks, 1, chunk.config.hidden_size, generator=generator)
        listed = torch.stack([torch.randint(0, models.VOCABULARY, (48,), generator=generator), labels], 1)
        allowed = torch.arange(0, 48, 2).repeat_interleave(2), listed[::2].flatten()  # every other token
        tied = chunk.shared_embedding_or_output_weight() if shares else None
        return cls(chunk, tied, states, labels, allowed)

    def run(
        self, max_logits: int | None, *, counted: Tensor | None = None, mask: Tensor | None = None
    ) -> _Found:
        """mask: [48] what the gradients are of."""
        calls: list[int] = []
        layer = self.chunk.output_layer
        counting = layer.register_forward_hook(lambda _, __, output: calls.append(len(output[0])))
        hidden = self.states.clone().requires_grad_()
        values, entropy = LmHead(layer, self.tied, max_logits)(
            hidden, self.labels, temperature=0.7, entropy=True, allowed=self.allowed, counted=counted
        )
        assert entropy is not None
        weight = layer.weight if self.tied is None else self.tied
        total = (values * torch.linspace(0, 1, 48) * (1.0 if mask is None else mask)).sum()
        of_hidden, of_weight = torch.autograd.grad(total, [hidden, weight])
        counting.remove()
        names = {"logprobs": values, "entropy": entropy, "of_hidden": of_hidden, "of_weight": of_weight}
        return _Found(names, len(calls), calls[0])


def packed(layout: Layout, shared: Path, *, family: str) -> dict[str, Any]:
    """The same uneven sequences in one pack and one by one."""
    policy = models.policy(family, layout, seed=4)
    sequences = models.uneven_sequences()
    policy.tokens_per_pack = 256
    together = policy.logprobs(sequences)
    alone = [policy.logprobs([sequence])[0] for sequence in sequences]
    return {
        "difference": max(_largest(a, b) for a, b in zip(together, alone, strict=True)),
        "values": [each.tolist() for each in together],
    }


def mtp(layout: Layout, shared: Path) -> dict[str, float]:
    """The MTP loss of two packed sequences, and by hand from the decoder's hidden states (V3, 2.2)."""
    policy = models.policy("v3_two_depths", layout, seed=6)
    policy.start_training(models.OPTIMIZER)
    chunk = policy.chunks[0]
    generator = torch.Generator().manual_seed(8)
    sequences = [
        TrainSequence(torch.randint(0, models.VOCABULARY, (n,), generator=generator), torch.rand(n))
        for n in (21, 30)
    ]
    expected = sum(_mtp_by_hand(chunk, sequence) for sequence in sequences)
    stats = policy.train_step(sequences, cross_entropy, lr=0.0, mtp=True)
    return {"ours": stats.metrics["mtp_loss"], "by_hand": float(expected)}


@torch.no_grad()
def _mtp_by_hand(chunk: Any, sequence: TrainSequence) -> Tensor:
    tokens, weights = sequence.token_ids, sequence.weights
    hidden = hidden_states(chunk, tokens[:-1])  # [S - 1, h]: position i has read tokens 0 .. i
    depths, total = chunk.config.mtp_num_layers, torch.zeros(())
    for depth in range(1, depths + 1):
        block = chunk.mtp.layers[depth - 1]
        # position i reads token i + depth as well and predicts token i + depth + 1
        hidden = hidden[: len(tokens) - 1 - depth]
        embedded = chunk.embedding.word_embeddings.weight[tokens[depth:-1]]
        joined = torch.cat([block.enorm(embedded), block.hnorm(hidden)], dim=-1)
        hidden = mtp_states(block, joined @ block.eh_proj.weight.T)
        logprobs = torch.log_softmax(hidden @ chunk.output_layer.weight.T, dim=-1)
        labels = tokens[depth + 1 :]
        total -= (logprobs.gather(1, labels[:, None])[:, 0] * weights[depth + 1 :]).sum()
    return total * chunk.config.mtp_loss_scaling_factor / depths


def hidden_states(chunk: Any, tokens: Tensor) -> Tensor:
    """[S, h] after the main model's last norm."""
    pack = describe_pack(torch.tensor([0, len(tokens)], dtype=torch.int32))
    embedded = chunk.embedding(input_ids=tokens[None], position_ids=None)
    return chunk.decoder(embedded, attention_mask=None, rotary_pos_emb=None, packed_seq_params=pack)[:, 0]


def mtp_states(block: Any, projected: Tensor) -> Tensor:
    pack = describe_pack(torch.tensor([0, len(projected)], dtype=torch.int32))
    states, _ = block.mtp_model_layer(
        hidden_states=projected[:, None], attention_mask=None, rotary_pos_emb=None, packed_seq_params=pack
    )
    return block.final_layernorm(states)[:, 0]


def _largest(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())

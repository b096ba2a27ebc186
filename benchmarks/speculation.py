"""Sampling with and without drafts by the MTP layer, on a V3-class model that learned a small language.

The language: each token is one of eight that the two before it allow, with fixed unequal odds. The model and
its MTP layer learn it until drafts are about as often right as on the demo's arithmetic. Rows that run at
once decide: a step with few rows costs its operators, whatever it computes, and with many rows its products,
of which speculation needs more than twice as many a step.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks import twins
from benchmarks.measure import in_turn, median_ratio, one_thread, rates
from benchmarks.record import record

VOCABULARY, EOS, PROMPT, NEW = 128, 1, 16, 64
LAYERS, ROWS = (2, 6), (1, 8, 64)
STEPS, SEQUENCES, LENGTH = 350, 32, 64


def main() -> None:
    one_thread()
    layout = twins.start_alone()
    record("speculation", [row for layers in LAYERS for row in _rows(layers, layout)])


def _rows(layers: int, layout: Any) -> Iterator[dict[str, Any]]:
    policy = _trained(layers, layout)
    for rows in ROWS:
        prompts = _text(rows, PROMPT, seed=1).tolist()
        with _overlap() as shares:
            outputs = _sample(policy, prompts, "mtp")
        plain = _sample(policy, prompts, None)
        assert [o.token_ids for o in outputs] == [o.token_ids for o in plain]
        timings = in_turn(
            {
                "drafts": lambda prompts=prompts: _sample(policy, prompts, "mtp"),
                "none": lambda prompts=prompts: _sample(policy, prompts, None),
            },
            rounds=5,
        )
        found = rates(timings, tokens=sum(len(o.token_ids) for o in outputs))
        yield {
            "layers": layers,
            "rows": rows,
            "accepted": round(
                sum(o.trace.accepted for o in outputs) / sum(o.trace.drafted for o in outputs), 3
            ),
            "most that any scheme could accept": round(sum(shares) / len(shares), 3),
            "tokens/CPU s": found["drafts"]["tokens_per_cpu_s"],
            "without, tokens/CPU s": found["none"]["tokens_per_cpu_s"],
            "times faster": median_ratio(timings, ours="drafts", theirs="none"),
        }


def _sample(policy: Any, prompts: list[list[int]], speculation: str | None) -> Any:
    from megatron_r1.types import Sampling

    policy.rollout_options.speculation = speculation
    return policy.generate(prompts, Sampling(NEW, seed=2), keys=list(range(len(prompts))))


@contextmanager
def _overlap() -> Iterator[list[float]]:
    """Sums of min(p, q) of each draft's distribution and the model's (Leviathan et al., 2211.17192, 3.2)."""
    from megatron_r1.backend.rollout import batch_scheduler

    draw, shares, drafts = batch_scheduler.next_tokens, [], []

    def noted(logits: torch.Tensor, uniforms: torch.Tensor, **options: Any) -> Any:
        if options["note"] is None:  # drafts; what is sampled next is behind each row and behind its draft
            drafts.append(logits.clone())
        elif drafts:
            both = torch.minimum(logits[::2].softmax(-1), drafts.pop().softmax(-1))
            shares.extend(both.sum(-1).tolist())
        return draw(logits, uniforms, **options)

    batch_scheduler.next_tokens = noted
    try:
        yield shares
    finally:
        batch_scheduler.next_tokens = draw


def _trained(layers: int, layout: Any) -> Any:
    from megatron_r1.backend.model.build import ModelOptions
    from megatron_r1.backend.policy import MegatronPolicy
    from megatron_r1.models.deepseek_v3 import DeepseekV3
    from megatron_r1.types import OptimizerOptions, TrainSequence

    family = DeepseekV3(
        family="deepseek_v3", vocab_size=VOCABULARY, num_layers=layers, hidden_size=128,
        num_attention_heads=4, q_lora_rank=64, kv_lora_rank=32, qk_head_dim=32, qk_pos_emb_head_dim=16,
        v_head_dim=32, num_dense_layers=1, ffn_hidden_size=256, num_experts=8, experts_per_token=2,
        moe_ffn_hidden_size=64, num_shared_experts=1, mtp_layers=1,
    )  # fmt: skip
    policy = MegatronPolicy(family, layout, ModelOptions(), seed=0, eos_ids=(EOS,), tokens_per_pack=1024)
    policy.start_training(OptimizerOptions())
    weights = torch.full((LENGTH,), 1 / SEQUENCES / (LENGTH - 1))
    for step in range(STEPS):
        policy.train_step(
            [TrainSequence(row, weights) for row in _text(SEQUENCES, LENGTH, seed=100 + step)],
            lambda logprobs, entropy, batch: (-logprobs, {}),
            lr=3e-3 * min(1.0, (step + 1) / 20, (STEPS - step) / 50),
            mtp=True,
        )
    return policy


def _text(count: int, length: int, *, seed: int) -> torch.Tensor:
    """[count, length] of the language; EOS is no word of it, so that no output ends early."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randint(2, VOCABULARY, (64, 8), generator=torch.Generator().manual_seed(0))
    odds = torch.tensor([0.9, 0.04, 0.02, 0.01, 0.01, 0.01, 0.005, 0.005])
    rows = torch.randint(2, VOCABULARY, (count, 2), generator=generator)
    for _ in range(length - 2):
        allowed = table[(rows[:, -1] + 3 * rows[:, -2]) % 64]
        chosen = odds.expand(count, -1).multinomial(1, generator=generator)
        rows = torch.cat([rows, allowed.gather(1, chosen)], dim=1)
    return rows


if __name__ == "__main__":
    main()

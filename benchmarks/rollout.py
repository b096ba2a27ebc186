"""Sampling next to transformers' generate() on the same weights: equal lengths, and ragged ones as in RL."""

from typing import Any

import torch

from benchmarks import twins
from benchmarks.lengths import ForcedInTransformers, drawn_lengths, forced_in_ours
from benchmarks.measure import in_turn, median_ratio, one_thread, rates
from benchmarks.record import record

PROMPT, LIMIT, SEED = 32, 128, 0
CASES = {"equal": (64, None), "ragged": (256, 42.0)}  # prompts, and the mean of lengths before the limit
# rows of a batch in transformers, the fastest of 64, 128 and 256: all rows wait for their batch's longest
THEIR_BATCH = {"1M": 256, "5M": 64}


def main() -> None:
    one_thread()
    layout = twins.start_alone()
    rows = []
    for size, shape in twins.SHAPES.items():
        policy = twins.our_policy(shape, layout)
        twin = twins.transformers_twin(shape, policy)
        assert twins.largest_difference(policy, twin) < 1e-4
        rows += [_row(size, case, policy, twin) for case in CASES]
    record("rollout", rows)


def _row(size: str, case: str, policy: Any, twin: Any) -> dict[str, Any]:
    count, mean = CASES[case]
    keys = list(range(count))
    lengths = drawn_lengths(keys, seed=SEED, mean=mean, limit=LIMIT)
    prompts = torch.randint(2, twins.EOS, (count, PROMPT), generator=torch.Generator().manual_seed(0))
    contenders = {
        "megatron_r1": lambda: _ours(policy, prompts, keys, mean, lengths),
        "transformers": lambda: _theirs(twin, prompts, lengths, batch=THEIR_BATCH[size]),
    }
    timings = in_turn(contenders)
    found = rates(timings, tokens=sum(lengths))
    return {
        "parameters": size,
        "lengths": f"{case}: {count} x {sum(lengths) / count:.0f} of at most {LIMIT}",
        "ours, tokens/CPU s": found["megatron_r1"]["tokens_per_cpu_s"],
        "transformers, tokens/CPU s": found["transformers"]["tokens_per_cpu_s"],
        "times faster": median_ratio(timings, ours="megatron_r1", theirs="transformers"),
        "ours, tokens/s of wall time": found["megatron_r1"]["tokens_per_wall_s"],
        "transformers, tokens/s of wall time": found["transformers"]["tokens_per_wall_s"],
    }


def _ours(
    policy: Any, prompts: torch.Tensor, keys: list[int], mean: float | None, lengths: list[int]
) -> None:
    from megatron_r1.types import Sampling

    with forced_in_ours(mean):
        outputs = policy.generate(prompts.tolist(), Sampling(LIMIT, seed=SEED), keys=keys)
    assert [len(output.token_ids) for output in outputs] == lengths


@torch.no_grad()
def _theirs(twin: Any, prompts: torch.Tensor, lengths: list[int], *, batch: int) -> None:
    from transformers import GenerationConfig, LogitsProcessorList

    config = GenerationConfig(
        max_new_tokens=LIMIT, do_sample=True, top_k=0, eos_token_id=twins.EOS, pad_token_id=0
    )
    for first in range(0, len(prompts), batch):
        rows = slice(first, first + batch)
        found = twin.generate(
            prompts[rows],
            attention_mask=torch.ones_like(prompts[rows]),
            generation_config=config,
            logits_processor=LogitsProcessorList(
                [ForcedInTransformers(lengths[rows], prompt=PROMPT, limit=LIMIT)]  # type: ignore[list-item]
            ),
        )
        assert found.shape[1] == PROMPT + max(lengths[rows])


if __name__ == "__main__":
    main()

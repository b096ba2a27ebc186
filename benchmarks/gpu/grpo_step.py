"""A GRPO step of a Qwen2.5-1.5B shape beside TRL on one GPU. `python -m benchmarks.gpu.grpo_step`.

benchmarks/grpo_step.py says what both do. Here in bf16, ours with fp32 masters, gradients and moments, TRL
all in bf16, which is its faster way; by the clock. Where TRL is not installed, our side is measured alone and
the row says so.
"""

from importlib.util import find_spec
from statistics import median
from typing import Any

from benchmarks import twins
from benchmarks.gpu import _setting as setting
from benchmarks.gpu import rows
from benchmarks.grpo_step import OURS, TRL, Step, Work, beside_trl, lengths_in_words
from benchmarks.measure import median_ratio, timed

SIZE = "dense_1.5b"
TOKENS_PER_PACK = 4096
# ragged as in RL: a third of the limit on average
WORK = Work(prompt=128, limit=384, mean=128.0, vocabulary=151936, their_rows=8, rounds=2)
NEEDED = ("trl", "transformers", "datasets")
LARGEST_DIFFERENCE = 0.15  # of log-probs in bf16 between the twins: other weights are off by more than 1


def main() -> None:
    setting.start()
    measure(WORK)


def measure(work: Work) -> rows.Row:
    policy = setting.policy(SIZE, "bf16", tokens_per_pack=TOKENS_PER_PACK, eos_id=twins.EOS)
    absent = [name for name in NEEDED if find_spec(name) is None]
    if absent:
        step = Step(policy, work)
        ours = [timed(step).wall_s for _ in range(work.rounds + 1)][1:]
        why = f"{' and '.join(absent)} not installed here, so that only our side was measured"
        return rows.missing("grpo_step", why, **_detail(step, work, ours_s=median(ours)))
    twin = twins.transformers_twin(twins.shape_of(setting.SIZES[SIZE]), policy)
    difference = twins.largest_difference(policy, twin)
    assert difference < LARGEST_DIFFERENCE, f"the twins' log-probs differ by {difference:.3f}"
    step = Step(policy, work)
    found = beside_trl(twin, step, work)
    seconds = {name: median(timing.wall_s for timing in found[name]) for name in (OURS, TRL)}
    return rows.measured(
        "grpo_step",
        median_ratio(found, ours=OURS, theirs=TRL, clock="wall_s"),
        **_detail(step, work, ours_s=seconds[OURS], trl_s=seconds[TRL], log_probs_apart=difference),
    )


def _detail(step: Step, work: Work, **figures: float) -> dict[str, Any]:
    return {"lengths": lengths_in_words("ragged", work, sum(step.lengths)), **figures}


if __name__ == "__main__":
    main()

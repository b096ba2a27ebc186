"""What a GRPO step reports of its rollout and of its updates (tracking/metrics.py defines the names)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megatron_r1.rl.filters import GroupCounts
from megatron_r1.stages.evaluation.domains import metric_word
from megatron_r1.stages.sampling import accepted_share, draft_counts
from megatron_r1.types import Refits, Replicas, Scored, StepStats


@dataclass(frozen=True, slots=True)
class Rollout:
    """This replica's outputs of a step, whole groups in a row.

    sampled_tokens, num_sampled, num_ungraded: of dropped groups too. reason: why the first output that no
    reward could judge was not graded.
    """

    scored: list[Scored]
    counts: GroupCounts
    rewards: list[str]
    rollout_s: float
    reward_s: float
    sampled_tokens: int
    refits: Refits
    domains: tuple[str, ...] = ()  # names of the sources, where there are several
    version: int = 0  # of the policy that they are trained on
    num_sampled: int = 0
    num_ungraded: int = 0
    reason: str = ""


def rollout_metrics(rollout: Rollout, replicas: Replicas, *, group_size: int) -> dict[str, float]:
    """Means over all replicas' outputs and groups; no mean reward where nothing could be graded."""
    lengths = [len(s.completion.token_ids) for s in rollout.scored]
    total = replicas.sum(_sums(rollout, lengths, group_size) | rollout.counts.as_metrics())
    groups = sum(total[f"groups/{kind}"] for kind in rollout.counts.kinds)
    outputs = max(1.0, total["outputs"])
    return {
        **({"train/reward": total["reward"] / total["graded"]} if total["graded"] else {}),
        "train/zero_std_groups": total["groups/equal"] / groups,
        "train/ungradable_groups": total["groups/ungradable"] / groups,
        "train/ungraded": total["ungraded"] / max(1.0, total["all"]),
        "train/dropped_groups": 1 - total["groups/trained"] / groups,
        "rollout/length": total["length"] / outputs,
        "rollout/length_max": float(max(replicas.gather([max(lengths, default=0)]))),
        "rollout/cut": total["cut"] / outputs,
        "rollout/tokens_per_s": total["sampled"] / rollout.rollout_s,
        "refit/bytes": float(rollout.refits.num_bytes),
        "refit/seconds": rollout.refits.seconds,
        **accepted_share(total),
        **_staleness(rollout, replicas),
        **{
            f"train/reward_{name}": total[f"part/{name}"] / total[f"graded/{name}"]
            for name in rollout.rewards
            if total[f"graded/{name}"]
        },
        **_by_domain(total, rollout.domains),
    }


def _staleness(rollout: Rollout, replicas: Replicas) -> dict[str, float]:
    """How old the tokens are, in updates; nothing where the rollout is not ahead of training. Collective."""
    kept = [s.completion.trace.versions for s in rollout.scored]
    ages = [rollout.version - one for versions in kept if versions is not None for one in versions]
    sums = {"tokens": len(ages), "updates": sum(ages), "carried": sum(age > 0 for age in ages)}
    total = replicas.sum({name: float(value) for name, value in sums.items()})
    oldest = max(replicas.gather([max(ages, default=0)]))
    if not total["tokens"]:
        return {}
    return {
        "rollout/staleness": total["updates"] / total["tokens"],
        "rollout/staleness_max": float(oldest),
        "rollout/carried": total["carried"] / total["tokens"],
    }


def _by_domain(total: Mapping[str, float], domains: Sequence[str]) -> dict[str, float]:
    """Reward and length on each source's questions; nothing of a source without any in this step."""
    found = {}
    for domain in domains:
        for metric, what in (("train/reward", "reward"), ("rollout/length", "length")):
            count = total[f"{what}_count/{domain}"]
            if count:
                found[f"{metric}_on_{metric_word(domain)}"] = total[f"{what}/{domain}"] / count
    return found


def _sums(rollout: Rollout, lengths: Sequence[int], group_size: int) -> dict[str, float]:
    """This replica's share of each mean."""
    scored = rollout.scored
    rewards = [s.reward for s in scored if s.reward is not None]
    groups = [scored[i : i + group_size] for i in range(0, len(scored), group_size)]
    sums = {
        "outputs": float(len(scored)),
        "reward": float(sum(rewards)),
        "graded": float(len(rewards)),
        "length": float(sum(lengths)),
        "cut": float(sum(not s.completion.finished for s in scored)),
        "sampled": float(rollout.sampled_tokens),
        "all": float(rollout.num_sampled),
        "ungraded": float(rollout.num_ungraded),
        **draft_counts(s.completion for s in scored),
        "groups/trained": float(sum(any(s.reward is not None for s in group) for group in groups)),
    }
    for name in rollout.rewards:
        values = [s.parts[name].value for s in scored if name in s.parts]
        sums[f"part/{name}"] = float(sum(v for v in values if v is not None))
        sums[f"graded/{name}"] = float(sum(v is not None for v in values))
    for domain in rollout.domains:
        own = [s for s in scored if s.completion.prompt.source == domain]
        graded = [s.reward for s in own if s.reward is not None]
        sums[f"reward/{domain}"], sums[f"reward_count/{domain}"] = float(sum(graded)), float(len(graded))
        sums[f"length/{domain}"] = float(sum(len(s.completion.token_ids) for s in own))
        sums[f"length_count/{domain}"] = float(len(own))
    return sums


def update_metrics(stats: Sequence[StepStats]) -> dict[str, float]:
    """Means over the step's updates; nothing where no output was left to update on."""
    if not stats:
        return {}
    mean = {name: sum(s.metrics[name] for s in stats) / len(stats) for name in stats[0].metrics}
    found = {
        "train/loss": sum(s.loss for s in stats) / len(stats),
        "train/grad_norm": max(s.grad_norm for s in stats),
        "rollout/drift": drift_of(mean.pop("drift")),
    }
    return found | {f"train/{name}": value for name, value in mean.items()}


def drift_of(gap: float) -> float:
    """exp of the mean absolute gap of log-probs; infinite where Python's exp overflows."""
    return math.exp(gap) if gap < 700 else math.inf

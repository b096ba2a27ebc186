"""Sampling with drafts next to sampling without, and the drafts next to the training forward's MTP layer."""

from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch

from megatron_r1.backend.model.build import ModelOptions
from megatron_r1.backend.policy import MegatronPolicy
from megatron_r1.backend.rollout import engine as rollout
from megatron_r1.backend.rollout.decoder.decoder import LeanDecoder
from megatron_r1.backend.rollout.decoder.speculative import DraftingDecoder
from megatron_r1.backend.rollout.engine import RolloutOptions
from megatron_r1.config.layout import Layout
from megatron_r1.errors import ConfigError
from megatron_r1.models.deepseek_v3 import DeepseekV3
from megatron_r1.types import Sampled, Sampling, TrainSequence
from tests.distributed.scenarios import models
from tests.distributed.scenarios.decode import PLACES, PROMPT_LENGTHS, uneven_policy
from tests.distributed.scenarios.logprobs import hidden_states, mtp_states

SAMPLINGS = {
    "greedy": Sampling(16, temperature=0.0),
    "sampled": Sampling(16, temperature=0.9, seed=3),
    "nucleus": Sampling(16, top_p=0.7, seed=4, keep_nucleus=True, keep_routes=True),
}
LIKELY = 6  # tokens of each tensor rank that are
SMALL = 8  # tokens, EOS among them
COUNT, PROMPT = 4000, [5, 2, 7]


def compare(layout: Layout, shared: Path, *, samplings: Sequence[str] = tuple(SAMPLINGS)) -> dict[str, Any]:
    """By sampling: what is alike with and without drafts, for all outputs at once and three at a time."""
    policy = uneven_policy(models.FAMILIES["v3"], layout)
    if policy.chunks[-1].post_process:
        with torch.no_grad():  # few likely tokens, so that some greedy drafts are right
            policy.chunks[-1].output_layer.weight[LIKELY:] *= 0.3
    generator = torch.Generator().manual_seed(policy.replicas.index)
    unique = [torch.randint(2, models.VOCABULARY, (n,), generator=generator).tolist() for n in PROMPT_LENGTHS]
    prompts = [unique[place] for place in PLACES[: 5 if policy.replicas.index else None]]
    return {name: _compared(policy, prompts, SAMPLINGS[name]) for name in samplings}


def _compared(policy: MegatronPolicy, prompts: list[list[int]], sampling: Sampling) -> dict[str, Any]:
    keys = [100 * policy.replicas.index + i for i in range(len(prompts))]

    def sample(decoder: Any, rows: int | None = None) -> list[Sampled]:
        return rollout.generate(
            policy.chunks, prompts, sampling, keys=keys, eos_ids=(models.EOS,),
            options=RolloutOptions(rows=rows), decoder=decoder,
        )  # fmt: skip

    plain, drafted, few = sample(LeanDecoder), sample(DraftingDecoder), sample(DraftingDecoder, rows=3)
    pairs = list(zip(plain, drafted, strict=True))
    gaps = [abs(a - b) for p, d in pairs for a, b in zip(p.logprobs, d.logprobs, strict=True)]
    return {
        "plain": [o.token_ids for o in plain],
        "drafted": [o.token_ids for o in drafted],
        "few": [o.token_ids for o in few],
        "logprob_gap": max(gaps),
        "same_kept": all(
            _same(p.trace.nucleus, d.trace.nucleus) and _same(p.trace.routes, d.trace.routes)
            for p, d in pairs
        ),
        "drafts": [o.trace.drafted for o in drafted],
        "accepted": [o.trace.accepted for o in drafted],
        "accepted_few": [o.trace.accepted for o in few],
    }


def _same(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return a is b
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return torch.equal(a.ids, b.ids) and torch.equal(a.offsets, b.offsets)


class Recording(DraftingDecoder):
    """Of one row: the place that each draft was made from, and the draft's logits."""

    found: list[tuple[int, torch.Tensor]]

    def draft(
        self, tokens: torch.Tensor, positions: Any, newest: torch.Tensor, *, max_tokens: int
    ) -> torch.Tensor:
        logits = super().draft(tokens, positions, newest, max_tokens=max_tokens)
        type(self).found.append((positions[0] + int(newest[0]), logits[0]))
        return logits


def by_hand(layout: Layout, shared: Path) -> dict[str, float]:
    """The largest gap between a draft's log-probs and those of the MTP layer as training runs it."""
    policy = uneven_policy(models.FAMILIES["v3"], layout)
    chunk = policy.chunks[0]
    Recording.found = []
    prompt = [9, 4, 33, 2]
    output = rollout.generate(
        policy.chunks, [prompt], Sampling(30, seed=8), keys=[0], eos_ids=(models.EOS,), decoder=Recording
    )[0]
    tokens = torch.tensor(prompt + output.token_ids)
    with torch.no_grad():
        hidden = hidden_states(chunk, tokens[:-1])
        depth = chunk.mtp.layers[0]
        embedded = chunk.embedding.word_embeddings.weight[tokens[1:]]
        joined = torch.cat([depth.enorm(embedded), depth.hnorm(hidden)], dim=-1)
        expected = mtp_states(depth, joined @ depth.eh_proj.weight.T) @ chunk.output_layer.weight.T
    gaps = [(got.log_softmax(-1) - expected[at].log_softmax(-1)).abs().max() for at, got in Recording.found]
    return {"drafts": len(gaps), "gap": float(max(gaps)), "accepted": output.trace.accepted}


def refused(layout: Layout, shared: Path) -> list[str]:
    """What a policy says that can't speculate: no MTP layer, another engine, layers of another kind."""
    clamped = {**models.V3, "megatron": {"activation_func_clamp_value": 0.02}}
    cases = [(models.V3 | {"mtp_layers": 0}, "megatron"), (models.V3, "modules"), (clamped, "megatron")]
    found = []
    for shape, engine in cases:
        try:
            MegatronPolicy(
                DeepseekV3(**shape), layout, ModelOptions(), seed=0, eos_ids=(models.EOS,),
                tokens_per_pack=64,
                rollout_options=RolloutOptions(engine=engine, speculation="mtp"),
            )  # fmt: skip
        except ConfigError as error:
            found.append(str(error))
    return found


def counts(layout: Layout, shared: Path) -> dict[str, Any]:
    """How often each of all possible outputs of three tokens was drawn, how often it had to be by the
    training forward, and the same of what the drafts alone would have made of the second token."""
    policy = MegatronPolicy(
        DeepseekV3(**{**models.V3, "vocab_size": SMALL, "init_std": 0.2}), layout, ModelOptions(),
        seed=11, eos_ids=(models.EOS,), tokens_per_pack=256,
        rollout_options=RolloutOptions(speculation="mtp"),
    )  # fmt: skip
    outputs = policy.generate([PROMPT] * COUNT, Sampling(3, seed=1), keys=list(range(COUNT)))
    drawn = Counter(tuple(output.token_ids) for output in outputs)
    possible = [ids for ids in product(range(SMALL), repeat=3) if models.EOS not in ids[:2]]
    possible += [(first, models.EOS) for first in range(SMALL) if first != models.EOS] + [(models.EOS,)]
    sequences = [torch.tensor([*PROMPT, *ids]) for ids in possible]
    logprobs = policy.logprobs([TrainSequence(ids, torch.ones(len(ids))) for ids in sequences])
    expected = [COUNT * float(values[len(PROMPT) :].sum().exp()) for values in logprobs]
    return {
        "drawn": [drawn[ids] for ids in possible],
        "expected": expected,
        "accepted": sum(output.trace.accepted for output in outputs)
        / sum(output.trace.drafted for output in outputs),
        "drafted": _drafted(policy),
    }


def _drafted(policy: MegatronPolicy) -> dict[str, list[float]]:
    """Second tokens as the MTP layer drafts them, drawn and expected of the model, behind one first token."""
    first = 3
    logits = _draft_logits(policy, first)
    ids = torch.tensor([*PROMPT, first])
    rows = [torch.cat([ids, torch.tensor([token])]) for token in range(SMALL)]
    model = [
        float(v[-1].exp()) for v in policy.logprobs([TrainSequence(r, torch.ones(len(r))) for r in rows])
    ]
    share = logits.softmax(-1).tolist()
    return {"drawn": [COUNT * q for q in share], "expected": [COUNT * p for p in model]}


def _draft_logits(policy: MegatronPolicy, first: int) -> torch.Tensor:
    with rollout.inference(policy.chunks):
        decoder = DraftingDecoder(policy.chunks, rows=1, length=len(PROMPT) + 3)
        tokens = torch.tensor([PROMPT])
        decoder.prefill(tokens, torch.arange(len(PROMPT))[None], max_tokens=len(PROMPT))
        decoder.enter(torch.zeros(1, dtype=torch.long))
        newest = torch.zeros(1, dtype=torch.long)
        return decoder.draft(torch.tensor([[first, 0]]), [len(PROMPT) - 1], newest, max_tokens=2)[0]

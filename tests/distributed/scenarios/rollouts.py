"""Sampling on the live weights, next to the training forward of the same tokens."""

from pathlib import Path
from typing import Any

import torch

from megatron_r1.backend.policy import MegatronPolicy
from megatron_r1.backend.rollout import batch_scheduler, dynamic_engine
from megatron_r1.backend.rollout import engine as rollout
from megatron_r1.config.layout import Layout
from megatron_r1.types import Begun, Sampled, Sampling, TrainSequence
from tests.distributed.scenarios import models

PROMPT_LENGTHS = (3, 11, 1, 7, 20, 5, 2, 9)
SAMPLINGS = {
    "greedy": Sampling(max_new_tokens=12, temperature=0.0),
    "sampled": Sampling(max_new_tokens=12, temperature=0.8, seed=4),
    "nucleus": Sampling(max_new_tokens=12, temperature=1.0, top_p=0.7, seed=4),
}


def sample(
    layout: Layout,
    shared: Path,
    *,
    family: str,
    engine: rollout.Engine = "megatron",
    carried: bool = True,
) -> dict[str, list[dict[str, Any]]]:
    """Each prompt's output and log-probs, by sampling; `few`: three at a time; `alone`: only replica 0 has a
    prompt; `ends`: other tokens than EOS end an output too. carried: in two calls, too, where the engine can
    go on."""
    policy = models.policy(family, layout, seed=11)
    policy.rollout_options.engine = engine
    if engine == "dynamic":
        _poison_new_caches()
    found = {name: _sample(policy, sampling, len(PROMPT_LENGTHS)) for name, sampling in SAMPLINGS.items()}
    policy.rollout_options.rows = 3
    found["few"] = _sample(policy, SAMPLINGS["sampled"], len(PROMPT_LENGTHS))
    training = [chunk.training for chunk in policy.chunks]
    assert all(training), "the engine left the model as it was"
    found["alone"] = _sample(policy, SAMPLINGS["sampled"], 1)
    before, policy.eos_ids = policy.eos_ids, (models.EOS, *_other_ends(found["sampled"]))
    found["ends"] = _sample(policy, SAMPLINGS["sampled"], len(PROMPT_LENGTHS))
    found["eos_ids"] = [{"tokens": list(policy.eos_ids)}]
    policy.eos_ids = before
    if carried and engine not in ("dynamic", "nemo"):
        policy.rollout_options.rows = None
        shortest = min(found["sampled"], key=lambda row: len(row["tokens"]))["key"]
        found["carried"] = _sample(policy, SAMPLINGS["sampled"], len(PROMPT_LENGTHS), due=shortest)
    return found


def _other_ends(rows: list[dict[str, Any]]) -> list[int]:
    """Tokens in the middle of two outputs."""
    return sorted({row["tokens"][len(row["tokens"]) // 2] for row in rows[1:3]} - {models.EOS})


def _in_two_calls(
    policy: MegatronPolicy, prompts: list[list[int]], sampling: Sampling, keys: list[int], *, due: int
) -> tuple[list[Sampled], list[int]]:
    """The outputs, and how long each was when that of key `due` had ended and the first call with it."""
    nothing = [Begun(Sampled([], []), due=key == due) for key in keys]
    outputs = policy.generate(prompts, sampling, keys=keys, begun=nothing)
    lengths = [len(o.token_ids) for o in outputs]
    left = [
        i
        for i, o in enumerate(outputs)
        if o.token_ids[-1:] != [models.EOS] and lengths[i] < sampling.max_new_tokens
    ]
    rest = policy.generate(
        [prompts[i] for i in left],
        sampling,
        keys=[keys[i] for i in left],
        begun=[Begun(outputs[i], due=True) for i in left],
    )
    for i, output in zip(left, rest, strict=True):
        outputs[i] = output
    return outputs, lengths


def _poison_new_caches() -> None:
    """A new cache is memory that was used before: here the worst that can be in it."""
    build = dynamic_engine._engine

    def poisoned(*args: Any, **options: Any) -> Any:
        engine = build(*args, **options)
        engine.context.memory_buffer.fill_(torch.nan)
        return engine

    dynamic_engine._engine = poisoned


def _sample(
    policy: MegatronPolicy, sampling: Sampling, num_prompts: int, due: int | None = None
) -> list[dict[str, Any]]:
    """due: in two calls, the first of which ends with the output of this key."""
    replicas = policy.replicas
    keys = list(range(num_prompts))[replicas.index :: replicas.count]
    prompts = [_prompt(key) for key in keys]
    if due is None:
        outputs = policy.generate(prompts, sampling, keys=keys)
        begun = [0] * len(keys)
    else:
        outputs, begun = _in_two_calls(policy, prompts, sampling, keys, due=due)
    sequences = [
        TrainSequence(torch.tensor(prompt + o.token_ids), torch.ones(len(prompt) + len(o.token_ids)))
        for prompt, o in zip(prompts, outputs, strict=True)
    ]
    trained = policy.logprobs(sequences, temperature=sampling.temperature or 1.0)
    rows = [
        {
            "key": key,
            "tokens": o.token_ids,
            "begun": length,
            "rollout": o.logprobs,
            "training": values[len(prompt) :].tolist(),
        }
        for key, prompt, o, values, length in zip(keys, prompts, outputs, trained, begun, strict=True)
    ]
    return sorted(replicas.gather(rows), key=lambda row: row["key"])


def _prompt(key: int) -> list[int]:
    generator = torch.Generator().manual_seed(key)
    return torch.randint(2, models.VOCABULARY, (PROMPT_LENGTHS[key],), generator=generator).tolist()


class Broken(Exception):
    pass


def exception_inside(
    layout: Layout, shared: Path, *, family: str, engine: rollout.Engine = "megatron"
) -> dict[str, Any]:
    """The model's switches before `generate` and after one that fails at its third token."""
    policy = models.policy(family, layout)
    policy.rollout_options.engine = engine
    draws: Any = batch_scheduler if engine == "megatron" else dynamic_engine
    for chunk in policy.chunks:
        chunk.train()
    before, working, calls = _switches(policy), draws.next_tokens, []

    def failing(*args: Any, **kwargs: Any) -> Any:
        calls.append(_switches(policy))
        if len(calls) == 3:
            raise Broken
        return working(*args, **kwargs)

    draws.next_tokens = failing
    try:
        policy.generate([[5, 6], [7]], SAMPLINGS["greedy"], keys=[0, 1])
    except Broken:
        raised = True
    else:
        raised = False
    finally:
        draws.next_tokens = working
    return {
        "raised": raised,
        "restored": _switches(policy) == before,
        "switched_inside": calls[0] != before,
        "some_are_on": any(before.values()),
    }


def _switches(policy: MegatronPolicy) -> dict[str, Any]:
    """Every module's train mode and sequence-parallel attributes, and the configuration's."""
    found = {}
    for i, chunk in enumerate(policy.chunks):
        found[f"{i} config"] = chunk.config.sequence_parallel
        for name, module in chunk.named_modules():
            for attribute in ("training", *rollout.SEQUENCE_PARALLEL):
                found[f"{i} {name} {attribute}"] = module.__dict__.get(attribute)
    return found

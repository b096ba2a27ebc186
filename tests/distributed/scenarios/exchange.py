"""Experts on several ranks while decoding: by the exchange, and by the dispatcher that trains."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from megatron_r1.backend.rollout import engine as rollout
from megatron_r1.backend.rollout.decoder import expert_parallel
from megatron_r1.backend.rollout.decoder.decoder import LeanDecoder
from megatron_r1.backend.rollout.decoder.expert_parallel import Exchange
from megatron_r1.backend.rollout.decoder.module_decoder import ModuleDecoder
from megatron_r1.config.layout import Layout
from megatron_r1.types import Sampled, Sampling
from tests.distributed.scenarios import decode, models

PROMPTS = ([5, 6, 7, 8, 9, 10, 11, 12, 13], [8], [9, 3, 4, 4], [20, 21])
SAMPLING = Sampling(max_new_tokens=10, temperature=0.9, seed=3)
MOE_LAYERS, TOP_K = 3, 2  # of models.V3
# way -> bytes beyond the dispatcher's that the exchange may take; 2^14: on four ranks less than the prompts'
LIMITS = {"exchanged": 2**40, "dispatched": -(2**40), "prompts dispatched": 2**14}


def ways(layout: Layout, shared: Path, *, names: Sequence[str]) -> dict[str, Any]:
    """The outputs of each replica by each way ("modules": by Megatron's), and how often ranks met for it."""
    policy = decode.uneven_policy(decode.FAMILIES["v3"], layout)
    count = max(1, len(PROMPTS) - policy.replicas.index)  # the replicas' batches differ
    prompts = [list(prompt) for prompt in PROMPTS[:count]]
    keys = [100 * policy.replicas.index + i for i in range(count)]
    found: dict[str, Any] = {}
    for name in names:
        decoder = ModuleDecoder if name == "modules" else Counting
        with _limit(LIMITS.get(name, 0)), _counted() as counts:
            outputs = rollout.generate(
                policy.chunks, prompts, SAMPLING, keys=keys, eos_ids=(models.EOS,), decoder=decoder
            )
        found[name] = {"outputs": _plain(outputs), **counts}
    return found | {"bits": _bits()}


def _plain(outputs: list[Sampled]) -> list[tuple[list[int], list[float]]]:
    return [(output.token_ids, output.logprobs) for output in outputs]


class Counting(LeanDecoder):
    feeds = 0

    def _feed(self, *args: Any, **options: Any) -> torch.Tensor:
        Counting.feeds += 1
        return super()._feed(*args, **options)


@contextmanager
def _limit(extra: int) -> Iterator[None]:
    before = expert_parallel.EXTRA_BYTES["cpu"]
    expert_parallel.EXTRA_BYTES["cpu"] = extra
    try:
        yield
    finally:
        expert_parallel.EXTRA_BYTES["cpu"] = before


@contextmanager
def _counted() -> Iterator[dict[str, int]]:
    """How often tokens were fed, and how often each kind of collective ran."""
    counts = {"feeds": 0, "all_to_all_single": 0, "all_reduce": 0, "agreements": 0}
    Counting.feeds = 0
    kept = {name: getattr(dist, name) for name in ("all_to_all_single", "all_reduce")}
    maximum = Exchange.maximum

    def counting(name: str, function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            counts[name] += 1
            return function(*args, **options)

        return call

    for name, function in kept.items():
        setattr(dist, name, counting(name, function))
    Exchange.maximum = counting("agreements", maximum)
    try:
        yield counts
    finally:
        counts["feeds"] = Counting.feeds
        Exchange.maximum = maximum
        for name, function in kept.items():
            setattr(dist, name, function)


def _bits() -> bool:
    """Whether bf16 tokens, with fp32 weights and the numbers of 300 experts, arrive to the bit."""
    exchange = Exchange()
    if exchange.alike == exchange.size:
        return True
    replica, most = exchange.rank // exchange.alike, 5
    generator = torch.Generator().manual_seed(replica)
    count = most - replica
    x = torch.randn(count, 6, generator=generator).bfloat16()
    probs = torch.rand(count, TOP_K, generator=generator)
    experts = torch.randint(300, (count, TOP_K), generator=generator)
    tokens, weights, numbers = exchange.gather(x, probs, experts, max_tokens=most)()
    sent: list[Any] = [None] * exchange.size
    dist.all_gather_object(sent, (x, probs, experts), group=exchange.group)
    place, same = 0, True
    for other in sent[:: exchange.alike]:
        rows = slice(place, place + len(other[0]))
        same &= all(torch.equal(a[rows], b) for a, b in zip((tokens, weights, numbers), other, strict=True))
        place += -(-most // exchange.alike) * exchange.alike
        same &= bool((numbers[rows.stop : place] == -1).all())
    # every rank's part of the sum: here each adds up what the others have of its tokens
    total = exchange.sum(tokens.float().contiguous(), count)
    return same and torch.equal(total, x.float() * exchange.size)

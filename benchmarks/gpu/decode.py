"""A step of decoding beside the bytes that it must read at the memory's measured rate."""

import statistics
from dataclasses import dataclass

import torch

from benchmarks.gpu.peaks import seconds
from megatron_r1.backend.policy import MegatronPolicy
from megatron_r1.models.flops import token_cost
from megatron_r1.models.shape import FamilyConfig
from megatron_r1.types import Sampling

WIDTH = 2  # bytes of a weight and of a cached number, in bf16


@dataclass(frozen=True, slots=True)
class Decode:
    """seconds: of one step for all rows. length: tokens of a row at the mean step, the prompt included."""

    seconds: float
    length: float
    read: float  # bytes that the step can't do without


def measure(
    policy: MegatronPolicy,
    *,
    rows: int = 256,
    prompt_length: int = 128,
    new_tokens: tuple[int, int] = (32, 288),
    times: int = 3,
) -> Decode:
    """The time of one rollout less that of a shorter one, so that prompts and the start drop out.

    The policy's eos_ids must be none of its tokens: all rows run to the end.
    """
    vocabulary = policy.family.shape().vocab_size
    assert min(policy.eos_ids) >= vocabulary, "rows that end early leave the batch"
    prompts = torch.randint(0, vocabulary, (rows, prompt_length), generator=torch.Generator().manual_seed(0))
    asked, keys = prompts.tolist(), list(range(rows))
    short, long = new_tokens
    policy.generate(asked, Sampling(short), keys=keys)
    taken = {
        n: statistics.median(
            seconds(lambda n=n: policy.generate(asked, Sampling(n), keys=keys)) for _ in range(times)
        )
        for n in new_tokens
    }
    length = prompt_length + (short + long) / 2
    step = (taken[long] - taken[short]) / (long - short)
    return Decode(step, length, bytes_a_step(policy.family, rows=rows, length=length))


def bytes_a_step(family: FamilyConfig, *, rows: int, length: float) -> float:
    """Every weight that some row meets, once (the embedding's few rows left out), and every row's cache.

    Experts as if each token chose its own evenly: of E, 1 - (1 - k/E)^rows are met.
    """
    config = family.transformer_config()
    met = token_cost(family).weights  # with k experts a layer
    experts = config.get("num_moe_experts") or 0
    if experts:
        top, layers = config["moe_router_topk"], sum(config["moe_layer_freq"])
        each = 3 * config["hidden_size"] * config["moe_ffn_hidden_size"]
        met += layers * each * (experts * (1 - (1 - top / experts) ** rows) - top)
    return WIDTH * (met + rows * length * cached_a_token(family))


def cached_a_token(family: FamilyConfig) -> int:
    """Numbers: MLA's latent and rotated key, or the keys and values of every group."""
    config = family.transformer_config()
    if config.get("multi_latent_attention"):
        return config["num_layers"] * (config["kv_lora_rank"] + config["qk_pos_emb_head_dim"])
    return config["num_layers"] * 2 * config["num_query_groups"] * config["kv_channels"]

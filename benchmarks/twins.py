"""One Qwen2 twice: our policy, and transformers' model with the same weights.

The mapping is written out here on purpose: what a benchmark compares should not rest on the package's own.
"""

import os
import socket
import warnings
from typing import Any

import torch

SHAPES: dict[str, dict[str, Any]] = {
    "1M": {"hidden_size": 128, "num_layers": 4, "heads": 4, "groups": 2, "ffn": 352},
    "5M": {"hidden_size": 256, "num_layers": 6, "heads": 8, "groups": 4, "ffn": 704},
}
VOCABULARY = 512
EOS = VOCABULARY - 1


def start_alone() -> Any:
    """Megatron's groups of a single rank; returns the layout."""
    warnings.filterwarnings("ignore")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    from megatron_r1.backend.parallel import process_groups
    from megatron_r1.config.layout import Layout

    layout = Layout(ranks=1)
    process_groups.start(layout)
    return layout


def our_policy(shape: dict[str, Any], layout: Any, *, tokens_per_pack: int = 8192) -> Any:
    from megatron_r1.backend.model.build import ModelOptions
    from megatron_r1.backend.policy import MegatronPolicy
    from megatron_r1.models.qwen2 import Qwen2

    family = Qwen2(
        family="qwen2",
        vocab_size=VOCABULARY,
        hidden_size=shape["hidden_size"],
        num_layers=shape["num_layers"],
        num_attention_heads=shape["heads"],
        num_query_groups=shape["groups"],
        ffn_hidden_size=shape["ffn"],
    )
    return MegatronPolicy(
        family, layout, ModelOptions(), seed=0, eos_ids=(EOS,), tokens_per_pack=tokens_per_pack
    )


def shape_of(family: Any) -> dict[str, Any]:
    """Of a Qwen2 of the package's."""
    return {
        "hidden_size": family.hidden_size,
        "num_layers": family.num_layers,
        "heads": family.num_attention_heads,
        "groups": family.num_query_groups,
        "ffn": family.ffn_hidden_size,
        "vocabulary": family.vocab_size,
        "tied": family.tie_embeddings,
    }


def transformers_twin(shape: dict[str, Any], policy: Any) -> Any:
    """transformers' Qwen2ForCausalLM with the policy's weights, on its device and in its format."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    some = next(policy.chunks[0].parameters())
    config = Qwen2Config(
        vocab_size=shape.get("vocabulary", VOCABULARY),
        hidden_size=shape["hidden_size"],
        num_hidden_layers=shape["num_layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["groups"],
        intermediate_size=shape["ffn"],
        max_position_embeddings=4096,
        rope_theta=1e6,
        rms_norm_eps=1e-6,
        tie_word_embeddings=shape.get("tied", False),
        eos_token_id=EOS,
        pad_token_id=0,
        bos_token_id=None,
    )
    with some.device:
        twin = Qwen2ForCausalLM._from_config(config, dtype=some.dtype).eval()
    weights = renamed(policy.chunks[0].state_dict(), shape)
    twin.load_state_dict(weights)
    return twin


def renamed(ours: dict[str, torch.Tensor], shape: dict[str, Any]) -> dict[str, torch.Tensor]:
    embedding = ours["embedding.word_embeddings.weight"]
    found = {
        "model.embed_tokens.weight": embedding,
        "model.norm.weight": ours["decoder.final_layernorm.weight"],
        "lm_head.weight": embedding if shape.get("tied") else ours["output_layer.weight"],
    }
    for i in range(shape["num_layers"]):
        own, other = f"decoder.layers.{i}.", f"model.layers.{i}."
        for kind in ("weight", "bias"):
            for part, value in _split_qkv(ours[f"{own}self_attention.linear_qkv.{kind}"], shape).items():
                found[f"{other}self_attn.{part}_proj.{kind}"] = value
        gate, up = ours[f"{own}mlp.linear_fc1.weight"].chunk(2)
        found |= {
            f"{other}self_attn.o_proj.weight": ours[f"{own}self_attention.linear_proj.weight"],
            f"{other}mlp.gate_proj.weight": gate,
            f"{other}mlp.up_proj.weight": up,
            f"{other}mlp.down_proj.weight": ours[f"{own}mlp.linear_fc2.weight"],
            f"{other}input_layernorm.weight": _norm(
                ours, own, "input_layernorm", "self_attention.linear_qkv"
            ),
            f"{other}post_attention_layernorm.weight": _norm(
                ours, own, "pre_mlp_layernorm", "mlp.linear_fc1"
            ),
        }
    return found


def _norm(ours: dict[str, torch.Tensor], layer: str, name: str, linear: str) -> torch.Tensor:
    """A module of its own, or with Transformer Engine a part of the linear that follows it."""
    inside = ours.get(f"{layer}{linear}.layer_norm_weight")
    return ours[f"{layer}{name}.weight"] if inside is None else inside


def _split_qkv(joined: torch.Tensor, shape: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Megatron keeps each group's queries, key and value together."""
    groups, per_group = shape["groups"], shape["heads"] // shape["groups"]
    width = shape["hidden_size"] // shape["heads"]
    heads = joined.view(groups, per_group + 2, width, *joined.shape[1:])
    parts = {
        "q": heads[:, :per_group],
        "k": heads[:, per_group : per_group + 1],
        "v": heads[:, per_group + 1 :],
    }
    return {name: part.flatten(0, 2).clone() for name, part in parts.items()}


def largest_difference(policy: Any, twin: Any) -> float:
    """Of the log-probs of one sequence: are they twins?"""
    from megatron_r1.types import TrainSequence

    ids = torch.randint(0, EOS, (48,), generator=torch.Generator().manual_seed(1))
    ours = policy.logprobs([TrainSequence(ids, torch.ones(48))])[0][1:]
    there = ids.to(twin.device)
    with torch.no_grad():
        logits = twin(there[None]).logits[0, :-1].float()
    theirs = logits.log_softmax(-1).gather(1, there[1:, None])[:, 0]
    return float((ours - theirs.cpu()).abs().max())

"""What the tests of Hugging Face's files are held against, written by hand."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.distributed.harness import hf_models


@torch.no_grad()
def mtp_loss_by_hand(directory: Path) -> float:
    """DeepSeek-V3, section 2.2, on the second prompt: transformers' layer with the MTP layer's weights.

    Position i sees [enorm(embedding of token i + 1), hnorm(state of i after the last norm)] and predicts
    token i + 2.
    """
    from transformers import AutoModelForCausalLM
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3DecoderLayer

    model = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager", dtype=torch.float32)
    weights = load_file(directory / "model.safetensors")
    last = model.config.num_hidden_layers
    prefix = f"model.layers.{last}."
    mine = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    layer = DeepseekV3DecoderLayer(model.config, layer_idx=last - 1).eval()
    layer.load_state_dict(_fused(mine, model.config.n_routed_experts), strict=True)

    tokens = torch.tensor(hf_models.prompts(model.config.vocab_size)[1])
    states = model.model(tokens[None, :-2]).last_hidden_state[0]
    embedded = weights["model.embed_tokens.weight"][tokens[1:-1]]
    joined = torch.cat([_norm(embedded, mine["enorm.weight"]), _norm(states, mine["hnorm.weight"])], dim=-1)
    projected = (joined @ mine["eh_proj.weight"].T)[None]
    size = projected.shape[1]
    mask = torch.full((size, size), float("-inf")).triu(1)[None, None]
    rotary = model.model.rotary_emb(projected, torch.arange(size)[None])
    out = layer(projected, attention_mask=mask, position_embeddings=rotary)
    out = (out[0] if isinstance(out, tuple) else out)[0]
    logits = _norm(out, mine["shared_head.norm.weight"]) @ weights["lm_head.weight"].T
    loss = torch.nn.functional.cross_entropy(logits, tokens[2:], reduction="sum")
    return float(loss) * 0.3  # model.mtp_loss_weight


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def _fused(weights: dict[str, Tensor], num_experts: int) -> dict[str, Tensor]:
    """Experts as transformers keeps them in memory."""
    kept = {
        name: value
        for name, value in weights.items()
        if not name.startswith(("enorm", "hnorm", "eh_proj", "shared_head", "embed_tokens", "mlp.experts."))
    }
    expert = "mlp.experts.{}.{}_proj.weight".format
    kept["mlp.experts.gate_up_proj"] = torch.stack(
        [torch.cat([weights[expert(e, "gate")], weights[expert(e, "up")]]) for e in range(num_experts)]
    )
    kept["mlp.experts.down_proj"] = torch.stack([weights[expert(e, "down")] for e in range(num_experts)])
    return kept

"""Small models of every family, written by transformers with random weights, and what it says of them.

Norms, biases and the routers' bias are random too: at their initial values half of all mistakes don't show.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

PROMPT_LENGTHS = (9, 41)  # the second one is beyond the context before YaRN and Llama's rule
NEW_TOKENS = 6

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
YARN = {
    "rope_type": "yarn",
    "factor": 40.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 32,
    "beta_slow": 1,
}
V3: dict[str, Any] = {
    **SIZES,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 32,
    "n_shared_experts": 1,
    "n_routed_experts": 8,
    "num_experts_per_tok": 4,
    "routed_scaling_factor": 2.5,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 12,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "rope_theta": 10000.0,
    "rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
    "num_nextn_predict_layers": 0,
}
GQA = {**SIZES, "num_key_value_heads": 2, "rope_theta": 1e6, "tie_word_embeddings": False}
LLAMA_RULE = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
MOE = {**GQA, "head_dim": 16, "moe_intermediate_size": 32, "num_experts": 8, "num_experts_per_tok": 2}

# name -> (transformers' class without ForCausalLM, its configuration)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "v3": ("DeepseekV3", {**V3, "vocab_size": 97, "num_nextn_predict_layers": 1}),
    "v3_mtp": ("DeepseekV3", {**V3, "num_nextn_predict_layers": 1}),
    "v3_lite": (
        "DeepseekV3",
        {**V3, "q_lora_rank": None, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 3,
         "rms_norm_eps": 1e-5, "rope_scaling": None, "first_k_dense_replace": 2, "n_shared_experts": 2,
         "routed_scaling_factor": 2.446},
    ),
    "v3_no_mscale": ("DeepseekV3", {**V3, "rope_scaling": YARN, "first_k_dense_replace": 3}),
    "v3_mscales": (
        "DeepseekV3",
        {**V3, "rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 0.5}, "n_group": 2, "topk_group": 2},
    ),
    "v3_halves": ("DeepseekV3", {**V3, "rope_interleave": False}),
    "qwen2": ("Qwen2", {**GQA, "vocab_size": 97}),
    "qwen2_tied": ("Qwen2", {**GQA, "tie_word_embeddings": True, "num_key_value_heads": 4}),
    "qwen2_one_group": ("Qwen2", {**GQA, "num_key_value_heads": 1}),
    "qwen3": ("Qwen3", {**GQA, "head_dim": 32, "tie_word_embeddings": True, "vocab_size": 97}),
    "qwen3_untied": ("Qwen3", {**GQA, "head_dim": 16}),
    "qwen3_moe": ("Qwen3Moe", {**MOE, "norm_topk_prob": True}),
    "qwen3_moe_plain": (
        "Qwen3Moe",
        {**MOE, "norm_topk_prob": False, "vocab_size": 97, "num_experts_per_tok": 3},
    ),
    "glm4_moe": (  # a plug-in: examples/glm4_moe.py
        "Glm4Moe",
        {**GQA, "head_dim": 16, "attention_bias": True, "rms_norm_eps": 1e-5, "moe_intermediate_size": 32,
         "n_routed_experts": 8, "num_experts_per_tok": 3, "n_shared_experts": 1, "first_k_dense_replace": 1,
         "routed_scaling_factor": 1.5, "num_nextn_predict_layers": 0, "partial_rotary_factor": 0.5},
    ),
    "llama": ("Llama", {**GQA, "rope_theta": 5e5}),
    "llama_8": (
        "Llama",
        {**GQA, "vocab_size": 97,
         "rope_scaling": {**LLAMA_RULE, "factor": 8.0, "original_max_position_embeddings": 32}},
    ),
    "llama_32": (
        "Llama",
        {**GQA, "head_dim": 32, "tie_word_embeddings": True,
         "rope_scaling": {**LLAMA_RULE, "factor": 32.0, "original_max_position_embeddings": 16}},
    ),
}  # fmt: skip
WITH_EXPERTS = tuple(name for name in MODELS if name.startswith(("v3", "qwen3_moe", "glm4")))
OLD_SPELLING = ("v3_no_mscale", "v3_mtp", "llama_8", "qwen2_tied")  # rope_theta beside rope_scaling
SHARDED = ("v3_lite", "qwen3")  # several files and an index


def write_all(folder: Path) -> None:
    """FOLDER/NAME with the model and FOLDER/NAME.safetensors with its logits and greedy tokens."""
    for name in MODELS:
        write(name, folder)


def write(name: str, folder: Path) -> None:
    import transformers

    kind, settings = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**settings, attn_implementation="eager")
    model = getattr(transformers, f"{kind}ForCausalLM")(config).float().eval()
    randomize(model)
    directory = folder / name
    model.save_pretrained(directory, **({"max_shard_size": "100KB"} if name in SHARDED else {}))
    if name in OLD_SPELLING:
        spell_as_before(directory / "config.json")
    if name == "v3_mtp":
        add_mtp(directory)
    (directory / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    save_file(answers(model), folder / f"{name}.safetensors")


def randomize(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()]):
            if "inv_freq" in name:
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(spread(name, noise))


def spread(name: str, noise: Tensor) -> Tensor:
    if "norm" in name:
        return 1 + 0.3 * noise
    if name.endswith("bias"):
        return 0.3 * noise
    return (0.5 if name.endswith("gate.weight") else 0.12) * noise


def spell_as_before(path: Path) -> None:
    """As the released models write RoPE."""
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    path.write_text(json.dumps(config))


def add_mtp(directory: Path) -> None:
    """An MTP layer beside what transformers knows, with copies of embedding and head, as released."""
    generator = torch.Generator().manual_seed(2)
    tensors = load_file(directory / "model.safetensors")
    h, last = SIZES["hidden_size"], SIZES["num_hidden_layers"]
    mtp = {
        name.replace(f"layers.{last - 1}.", f"layers.{last}."): torch.empty_like(tensor)
        for name, tensor in tensors.items()
        if f"layers.{last - 1}." in name
    }
    prefix = f"model.layers.{last}."
    mtp |= {f"{prefix}{name}.weight": torch.empty(h) for name in ("enorm", "hnorm", "shared_head.norm")}
    mtp[f"{prefix}eh_proj.weight"] = torch.empty(h, 2 * h)
    mtp = {n: spread(n, torch.randn(t.shape, generator=generator)) for n, t in sorted(mtp.items())}
    mtp[f"{prefix}embed_tokens.weight"] = tensors["model.embed_tokens.weight"].clone()
    mtp[f"{prefix}shared_head.head.weight"] = tensors["lm_head.weight"].clone()
    save_file({**tensors, **mtp}, directory / "model.safetensors", metadata={"format": "pt"})


def prompts(vocab_size: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(2, vocab_size, (n,), generator=generator).tolist() for n in PROMPT_LENGTHS]


@torch.no_grad()
def answers(model: Any) -> dict[str, Tensor]:
    """logits0, logits1: [S, V] of the prompts; greedy: [n] what follows the first one."""
    found = {}
    inputs = prompts(model.config.vocab_size)
    for i, prompt in enumerate(inputs):
        found[f"logits{i}"] = model(torch.tensor([prompt])).logits[0].contiguous()
    found["greedy"] = greedy(model, inputs[0])
    return found


@torch.no_grad()
def greedy(model: Any, prompt: list[int]) -> Tensor:
    tokens = torch.tensor([prompt])
    for _ in range(NEW_TOKENS):
        tokens = torch.cat([tokens, model(tokens).logits[:, -1:].argmax(-1)], dim=1)
    return tokens[0, len(prompt) :].contiguous()

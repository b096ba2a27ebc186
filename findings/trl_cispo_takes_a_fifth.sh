#!/usr/bin/env bash
# TRL 1.16.0: GRPOTrainer with loss_type="cispo" and nothing else trains with a fifth of the gradient.
#
# Expected: choosing a loss gives that loss: on-policy, where every ratio is 1, CISPO's gradient is GRPO's.
# Seen: CISPO caps the ratio at epsilon_high itself, not at 1 + epsilon_high, and the default of both epsilons is
# the 0.2 that the other losses mean as a distance from 1: every ratio above 0.2 is cut to 0.2, which on-policy
# are all, and no warning is given. With epsilon_high=5.0, which the docstring recommends, the gradient is GRPO's.
# megatron_r1 caps at 1 + clip_high for every loss (rl/losses.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check uv
"$folder/venv/bin/uv" pip install -q --python "$folder/venv/bin/python" trl==1.16.0 torch==2.13.0 transformers==5.23.0 datasets==5.2.0 accelerate==1.15.0
HF_HUB_OFFLINE=1 CUDA_VISIBLE_DEVICES= "$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import sys

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from trl import GRPOConfig, GRPOTrainer

letters = sorted(pre_tokenizers.ByteLevel.alphabet())
spelling = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
spelling.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
spelling.decoder = decoders.ByteLevel()
spelling.add_special_tokens(["<pad>", "<eos>"])
tokenizer = PreTrainedTokenizerFast(tokenizer_object=spelling, pad_token="<pad>", eos_token="<eos>")


def by_position(completions: list[str], **others: object) -> list[float]:
    return [float(i) for i in range(len(completions))]


def grad_norm(**options: object) -> float:
    """Of the first step, on-policy."""
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, intermediate_size=32, head_dim=32, num_attention_heads=1, num_key_value_heads=1)
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer), num_hidden_layers=1, **sizes))
    arguments = GRPOConfig(
        output_dir=sys.argv[1], max_steps=1, logging_steps=1, per_device_train_batch_size=4, num_generations=4,
        max_completion_length=8, max_grad_norm=1e9, use_cpu=True, report_to=[], save_strategy="no",
        disable_tqdm=True, seed=1, **options,
    )
    prompts = Dataset.from_dict({"prompt": ["a"] * 4})
    trainer = GRPOTrainer(
        model=model, args=arguments, processing_class=tokenizer, train_dataset=prompts, reward_funcs=by_position
    )
    trainer.train()
    return trainer.state.log_history[0]["grad_norm"]


grpo, cispo = grad_norm(loss_type="dapo"), grad_norm(loss_type="cispo")
high = grad_norm(loss_type="cispo", epsilon_high=5.0)
print(f"grad_norm: dapo {grpo:.4f}, cispo {cispo:.4f}, cispo with epsilon_high=5.0 {high:.4f}")
assert abs(high / grpo - 1) < 1e-3
assert abs(cispo / grpo - 0.2) < 1e-3, "changed"
PYTHON

"""Distil into a Hugging Face student: weights in, fine-tuning on a teacher's chats, weights out.

    python examples/distill_student.py FOLDER

A tiny random Qwen2 stands for the student and a few written chats for the teacher's samples, so that this
takes seconds. For a real one put a downloaded model in place of FOLDER/student, and what a rejection_sampling
stage left, or your own JSONL, in place of the chats; conf/distill_qwen_7b.yaml has the paper's settings.
"""

import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from megatron_r1.convert import inspect
from megatron_r1.launch.local import launch

RUN = """\
base: model.yaml                    # what `megatron-r1 convert inspect --yaml` says of the student
name: distill_student
tokenizer: {{kind: huggingface, path: {folder}/student}}
template: r1_zero                   # plain text, which any tokenizer can spell
stages:
  distilled:
    kind: sft
    init: hf:{folder}/student
    data: {{teacher: &chats {{source: jsonl, path: {folder}/chats.jsonl, held_out: tenth}}}}
    held_out: {{data: {{teacher: *chats}}, chats: 4, every: 4}}
    examples: 8
    epochs: 2
    tokens_per_pack: 2048
    optim: {{lr: 3.0e-3, schedule: cosine, final_share: 0.1}}
    export: {{to: {folder}/distilled}}
"""


def write_student(folder: Path) -> None:
    """A random model with a tokenizer of bytes, as a directory from Hugging Face would be."""
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<|endoftext|>"]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(pieces), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True,
    )  # fmt: skip
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_chats(path: Path) -> None:
    """One chat a line, the teacher's answer last; its question decides what is held out."""
    chats = [
        [
            {"role": "user", "content": f"What is {a} + {b}?"},
            {"role": "assistant", "content": f"<think>{a} and {b} make {a + b}.</think>It is {a + b}."},
        ]
        for a in range(8)
        for b in range(8)
    ]
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))


def main(folder: Path) -> int:
    write_student(folder / "student")
    write_chats(folder / "chats.jsonl")
    (folder / "model.yaml").write_text(inspect(folder / "student", as_yaml=True))
    (folder / "run.yaml").write_text(RUN.format(folder=folder))
    code = launch(folder / "run.yaml", run_dir=folder / "run")  # megatron-r1 run FOLDER/run.yaml
    if code:
        return code
    for name in ("student", "distilled"):  # transformers loads what was exported like any other model
        tokenizer = AutoTokenizer.from_pretrained(folder / name)
        model = AutoModelForCausalLM.from_pretrained(folder / name)
        ids = tokenizer("<think>3 and 4 make 7.</think>It is 7.", return_tensors="pt").input_ids
        print(f"{name}: {model(ids, labels=ids).loss.item():.2f} nats a token of an answer")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

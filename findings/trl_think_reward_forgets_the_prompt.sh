#!/usr/bin/env bash
# TRL 1.16.0: think_format_reward pays nothing for a right completion of DeepSeek-R1's own chat template.
#
# Expected: a model that reasons, closes </think> and answers has the format's reward of 1.
# Seen: the template of R1's distillations, which TRL ships, ends the prompt with "<think>\n", the reward sees the
# completion alone and wants <think> at its beginning: the right form scores 0, and 1 is paid for a completion
# that opens <think> a second time, so that training goes there.
# megatron_r1 never lets a prompt open <think> in training (data/chat_template.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check uv
"$folder/venv/bin/uv" pip install -q --python "$folder/venv/bin/python" trl==1.16.0 torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from pathlib import Path

import jinja2
import trl
from trl.rewards import think_format_reward

template = Path(trl.__file__).parent / "chat_templates" / "deepseek_r1_distill.jinja"
messages = [{"role": "user", "content": "What is 2+2?"}]
prompt = jinja2.Template(template.read_text()).render(messages=messages, bos_token="<s>", add_generation_prompt=True)
print(f"the prompt: {prompt!r}")
assert prompt.endswith("<think>\n")
for completion, paid in [("Two and two.\n</think>\n4", 0.0), ("<think>Two and two.\n</think>\n4", 1.0)]:
    (reward,) = think_format_reward([[{"role": "assistant", "content": completion}]])
    print(f"{completion!r}: {reward}")
    assert reward == paid, "changed"
PYTHON

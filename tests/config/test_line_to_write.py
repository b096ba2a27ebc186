"""Where a mapping by names is wanted, the message shows the line to write, and that line loads."""

import re

import pytest

from megatron_r1.errors import ConfigError
from megatron_r1.run.config import load_run
from tests.end_to_end.micro_run import CONFIG

FLAT = "stages.base.data={source: arithmetic, weight: 2}"
LIST = "stages.base.data=[{source: arithmetic, weight: 2}]"


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (FLAT, "data: {mine: {source: arithmetic, weight: 2}}"),
        (LIST, "data: {arithmetic: {source: arithmetic, weight: 2}}"),
        ("stages.base.data=[chains]", "data: {chains: {source: ...}}, source: one of gym, jsonl"),
        ("stages.base.data=[arithmetic, a.jsonl]",
         "data: {arithmetic: {source: arithmetic}, mine: {source: jsonl, path: a.jsonl}}"),
        ("stages.base.data={chains: arithmetic}", "chains: {source: arithmetic}"),
        ("stages=[base]", "stages: {base: {kind: ...}}, kind: one of evaluate, grpo"),
        ("stages.base.data=x.jsonl", "data: {mine: {source: jsonl, path: x.jsonl}}"),
        ("stages.zero.rewards=[accuracy, format]", "rewards: {accuracy: {}, format: {}}"),
        ("stages.base.init=Qwen/Qwen2.5-7B", "init: hf:models/Qwen2.5-7B after `hf download Qwen/Qwen2.5-7B"),
        ("stages.base.init=./models/x", "init: hf:./models/x"),
    ],
)  # fmt: skip
def test_the_line_to_write_is_shown(override, line):
    with pytest.raises(ConfigError) as caught:
        load_run(CONFIG, overrides=[override])
    assert f"write {line}" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("override", ["stages.zero.rewards=[acuracy]", "stages.zero.evaluate=[x]"])
def test_a_line_that_would_not_load_is_not_shown(override):
    with pytest.raises(ConfigError, match=r"must be a mapping, got \[\S*\]$"):
        load_run(CONFIG, overrides=[override])


@pytest.mark.parametrize(
    "override", [FLAT, LIST, "stages.base.data=[arithmetic]", "stages.zero.rewards=[accuracy, format]"]
)
def test_the_line_loads(override):
    with pytest.raises(ConfigError) as caught:
        load_run(CONFIG, overrides=[override])
    found = re.search(r"write \w+: (.*)$", str(caught.value))
    assert found is not None
    load_run(CONFIG, overrides=[f"{override.split('=')[0]}={found[1]}"])

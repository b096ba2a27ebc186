"""The commands of docs/huggingface.md, pasted as they stand, on a tiny model."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.end_to_end import tiny_qwen
from tests.end_to_end.micro_run import ENVIRONMENT, REPOSITORY

pytestmark = pytest.mark.slow
TEXT = (REPOSITORY / "docs" / "huggingface.md").read_text()
TIMEOUT_S = 300.0


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all commands have run; their outputs are in the files 0.txt, 1.txt, ..."""
    folder = tmp_path_factory.mktemp("docs")
    tiny_qwen.write(folder / "models" / "qwen")
    (configuration,) = blocks("yaml")
    (folder / "tune.yaml").write_text(configuration)
    shutil.copy(REPOSITORY / "examples" / "data" / "chains.jsonl", folder / "chats.jsonl")
    scripts = Path(sys.executable).parent
    environment = {**ENVIRONMENT, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    commands = "".join(blocks("bash")).splitlines()
    assert len(commands) == 12
    for number, command in enumerate(commands):
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        (folder / f"{number}.txt").write_text(done.stdout)
    return folder


def test_inspect_names_the_family_and_says_that_it_converts(folder):
    for number in (0, 5, 9):
        text = (folder / f"{number}.txt").read_text()
        assert "qwen2" in text
        assert "converts as it is" in text


def test_verify_finds_no_difference(folder):
    text = (folder / "3.txt").read_text()
    assert "100.00% of 14 positions agree" in text  # a byte is a token
    assert "all 2 agree" in text
    assert "\nids " in text


def test_the_round_trip_changes_no_byte_of_a_tensor_and_no_file(folder):
    before, after = folder / "models" / "qwen", folder / "models" / "qwen_again"
    expected, found = (load_file(path / "model.safetensors") for path in (before, after))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert json.loads((after / name).read_text()) == json.loads((before / name).read_text())


def test_a_run_starts_from_the_files_and_leaves_such_files(folder):
    from transformers import AutoModelForCausalLM

    tuned = folder / "models" / "qwen_tuned"
    before = load_file(folder / "models" / "qwen" / "model.safetensors")
    after = load_file(tuned / "model.safetensors")
    moved = {name: (after[name].float() - before[name].float()).abs().max() for name in before}
    assert after.keys() == before.keys()
    assert all(gap < 1e-2 for gap in moved.values())
    assert any(gap > 0 for gap in moved.values())
    assert AutoModelForCausalLM.from_pretrained(tuned).config.hidden_size == 32
    settings = json.loads((tuned / "tokenizer_config.json").read_text())
    assert "The user asks a question" in settings["chat_template"]  # r1_zero, not the one that came
    assert json.loads((tuned / "generation_config.json").read_text())["eos_token_id"] == 256
    assert (tuned / "tokenizer.json").read_bytes() == (
        folder / "models" / "qwen" / "tokenizer.json"
    ).read_bytes()


def test_an_fp8_export_is_blocks_with_scales(folder):
    path = folder / "models" / "qwen_fp8"
    tensors = load_file(path / "model.safetensors")
    assert tensors["model.layers.0.self_attn.q_proj.weight"].dtype == torch.float8_e4m3fn
    assert tensors["model.layers.0.self_attn.q_proj.weight_scale_inv"].dtype == torch.float32
    assert tensors["model.embed_tokens.weight"].dtype == torch.bfloat16
    assert json.loads((path / "config.json").read_text())["quantization_config"]["weight_block_size"] == [
        128,
        128,
    ]
    done = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=path, check=False)
    assert done.returncode == 0


def test_a_killed_conversion_goes_on(folder):
    """SIGKILL in the middle, then the same again, the export on two ranks: nothing is lost."""
    source, checkpoint, out = (folder / name for name in ("models/qwen", "killed", "killed_out"))
    again = ["import", source, checkpoint]
    kept = _killed(again, checkpoint)
    _convert(again)
    assert kept == {name: (checkpoint / name).stat().st_ino for name in kept}
    again = ["export", checkpoint, out, "--max-shard-size", "2KB"]
    kept = _killed(again, out)
    _convert([*again, "--nproc", "2"])
    assert kept == {name: (out / name).stat().st_ino for name in kept}
    assert subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=out, check=False).returncode == 0
    expected = load_file(source / "model.safetensors")
    found = {k: v for path in out.glob("*.safetensors") for k, v in load_file(path).items()}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def _start(arguments: list, *, first: str = "") -> subprocess.Popen:
    """`megatron-r1 convert` with parts of 4 kB, so that a tiny model has many; first: code before it."""
    code = (
        "import sys\nfrom megatron_r1.backend.hf import import_checkpoint\n"
        "import_checkpoint.PART_BYTES = 4000\n" + first
    )
    code += "from megatron_r1.cli import main\nsys.exit(main(sys.argv[1:]))"
    return subprocess.Popen([sys.executable, "-c", code, "convert", *map(str, arguments)], env=ENVIRONMENT)


def _convert(arguments: list) -> None:
    assert _start(arguments).wait(TIMEOUT_S) == 0


def _killed(arguments: list, target: Path) -> dict[str, int]:
    """Kill it at a random write in the middle; the finished parts by name, with their inodes."""
    stop = (
        "import os, random, signal\nfrom megatron_r1.huggingface.resumable_writer import HashedFile, Parts\n"
        "write, finish, parts = HashedFile.write, Parts._finish, []\n"
        "def noted(self, name, *rest):\n    finish(self, name, *rest)\n    parts.append(name)\n"
        "def fatal(self, data):\n"
        "    if len(parts) > 2 and random.random() < 0.2:\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return write(self, data)\n"
        "HashedFile.write, Parts._finish = fatal, noted\n"
    )
    assert _start(arguments, first=stop).wait(TIMEOUT_S) == -signal.SIGKILL
    partial = target.with_name(target.name + ".tmp")
    assert not target.exists()
    done = [path.name.removesuffix(".done") for path in partial.glob("*.done")]
    assert len(done) > 2
    return {name: (partial / name).stat().st_ino for name in done}

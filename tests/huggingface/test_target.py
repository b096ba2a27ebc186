import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file

from megatron_r1.errors import CheckpointError, ConfigError
from megatron_r1.huggingface import target
from megatron_r1.huggingface.resumable_writer import Parts
from megatron_r1.huggingface.safetensors_file import Planned
from megatron_r1.huggingface.target import plan_shards, size_in_bytes


def planned(*sizes):
    return [[Planned(f"t{i}", torch.uint8, (size,))] for i, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5_000_000_000), ("200MB", 200_000_000), ("1.5GiB", 1_610_612_736), ("10", 10)]
)
def test_sizes_are_read_as_people_write_them(text, size):
    assert size_in_bytes(text) == size


@pytest.mark.parametrize("text", ["five", "5TBB", "-1GB", "", "0GB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ConfigError):
        size_in_bytes(text)


def test_shards_are_filled_in_order_up_to_the_limit():
    shards = plan_shards(planned(4, 4, 4, 9, 1), limit_bytes=8)
    assert [[t.name for t in shard.tensors] for shard in shards] == [["t0", "t1"], ["t2"], ["t3"], ["t4"]]
    assert shards[0].name == "model-00001-of-00004.safetensors"


def test_one_shard_has_the_plain_name():
    assert [shard.name for shard in plan_shards(planned(4, 4), limit_bytes=8)] == ["model.safetensors"]


def test_a_weight_and_its_scales_stay_together():
    pair = [Planned("w", torch.uint8, (6,)), Planned("w_scale_inv", torch.float32, (1,))]
    shards = plan_shards([*planned(3), pair], limit_bytes=9)
    assert [len(shard.tensors) for shard in shards] == [1, 2]


def write(directory, values, **options):
    parts = Parts(directory, hashlib.sha256, **options)
    tensors = [[Planned(name, value.dtype, tuple(value.shape))] for name, value in values.items()]
    shards = plan_shards(tensors, limit_bytes=40)
    done = parts.start({"of": sorted(values)}, num_bytes=0)
    for shard in shards:
        if shard.name not in done:
            target.write_shard(parts, shard, lambda name: {name: values[name]})
    parts.settle()
    target.finish(parts, shards, {"model_type": "x"}, {"tokenizer.json": b"{}"})
    return shards


def test_what_is_written_is_what_was_given(tmp_path):
    values = {f"t{i}": torch.randn(3, 2) for i in range(4)}
    shards = write(tmp_path / "out", values)
    assert len(shards) == 4
    found = {k: v for shard in shards for k, v in load_file(tmp_path / "out" / shard.name).items()}
    assert all(torch.equal(found[name], value) for name, value in values.items())
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["weight_map"]["t2"] == "model-00003-of-00004.safetensors"
    assert index["metadata"]["total_size"] == 4 * 24
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == b"{}"
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == sorted(
        [s.name for s in shards]
        + ["SHA256SUMS", "config.json", "model.safetensors.index.json", "tokenizer.json"]
    )


def test_another_plan_starts_anew(tmp_path):
    parts = Parts(tmp_path / "out", hashlib.sha256)
    parts.start({"of": 1}, num_bytes=0)
    parts.write("a", lambda file: file.write(b"x"))
    parts.settle()
    assert parts.start({"of": 1}, num_bytes=0) == ["a"]
    assert parts.start({"of": 2}, num_bytes=0) == []
    assert not (parts.partial / "a").exists()


def test_only_what_an_export_left_is_replaced(tmp_path):
    values = {"t0": torch.zeros(2)}
    write(tmp_path / "out", values)
    write(tmp_path / "out", {"t0": torch.ones(2)}, replaceable=target.SUMS)
    assert load_file(tmp_path / "out" / "model.safetensors")["t0"].tolist() == [1, 1]
    assert not (tmp_path / "out.old").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    with pytest.raises(CheckpointError, match="exists"):
        write(tmp_path / "mine", values, replaceable=target.SUMS)

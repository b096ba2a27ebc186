"""Import and export of a checkpoint of V3's shape, next to a plain copy of the same files on the same disk.

    python -m benchmarks.convert [--gb 4] [--folder DIR] [--repeats 3]

A copy and a conversion take turns in one process, and the first turn is dropped: memory that a virtual
machine has not touched for some seconds costs 1-2 s a GB more at its first touch. Seconds are wall clock from
the first look at the source to the last rename, with everything flushed to the disk, without starting Python;
CPU seconds stand beside them. Memory is what only this process has (USS), above what it had when it was ready
to begin, in a turn of its own: looking at it every 20 ms costs half a core. FP8 is measured on one core.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

HIDDEN, INNER, EXPERTS, VOCABULARY = 2048, 1024, 40, 32768
FOLDERS = {"import": ("model", "checkpoint"), "export": ("checkpoint", "exported")}
LAYER_BYTES = 3 * HIDDEN * INNER * (EXPERTS + 1) * 2


def family(num_bytes: float) -> Any:
    """V3's shape with as many layers as fill the bytes (bf16)."""
    from megatron_r1.models.deepseek_v3 import DeepseekV3, Yarn

    layers = max(2, round((num_bytes - 4 * VOCABULARY * HIDDEN) / LAYER_BYTES))
    return DeepseekV3(
        family="deepseek_v3",
        vocab_size=VOCABULARY,
        num_layers=layers,
        hidden_size=HIDDEN,
        num_attention_heads=16,
        q_lora_rank=512,
        kv_lora_rank=256,
        qk_head_dim=64,
        qk_pos_emb_head_dim=32,
        v_head_dim=64,
        ffn_hidden_size=4 * HIDDEN,
        num_experts=EXPERTS,
        experts_per_token=8,
        moe_ffn_hidden_size=INNER,
        num_expert_groups=8,
        groups_per_token=4,
        yarn=Yarn(factor=40.0, original_max_position_embeddings=4096),
    )


def write_model(directory: Path, num_bytes: float, shard_bytes: int) -> int:
    """Random bf16 weights in shards, with an index; returns the bytes."""
    import torch

    from megatron_r1.huggingface.safetensors_file import Planned, bytes_of, header_of
    from megatron_r1.huggingface.target import plan_shards

    model = family(num_bytes)
    planned = [
        [Planned(name, torch.float32 if w.row.fp32 else torch.bfloat16, w.hf_shape(part))]
        for w in model.weights()
        for part, name in enumerate(w.hf)
    ]
    directory.mkdir(parents=True)
    shards = plan_shards(planned, limit_bytes=shard_bytes)
    weight_map = {}
    for shard in shards:
        with (directory / shard.name).open("wb") as file:
            file.write(header_of(shard.tensors))
            for tensor in shard.tensors:
                file.write(bytes_of(torch.randn(tensor.shape).mul_(0.02).to(tensor.dtype)))
                weight_map[tensor.name] = shard.name
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (directory / "config.json").write_text(json.dumps(model.to_hf()))
    return sum(shard.num_bytes for shard in shards)


def copy(source: Path, target: Path) -> None:
    """Every file, flushed."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for path in sorted(source.iterdir()):
        shutil.copyfile(path, target / path.name)
        handle = os.open(target / path.name, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def timed(action: Callable[[], None]) -> dict[str, float]:
    began, cpu = time.perf_counter(), time.process_time()
    action()
    return {"seconds": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}


class Memory:
    """The most USS of this process above that at the start, in bytes."""

    def __init__(self) -> None:
        import psutil

        self._process = psutil.Process()
        self.base = self.peak = self._uss()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _uss(self) -> int:
        return self._process.memory_full_info().uss

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.peak = max(self.peak, self._uss())


def turns(kind: str, folder: Path, repeats: int, shard_bytes: int) -> list[dict[str, Any]]:
    """Copy and conversion in turn, and a last conversion with its memory. What the last one wrote stays."""
    from megatron_r1 import convert as command
    from megatron_r1.backend.hf.export_checkpoint import ExportOptions, export_model
    from megatron_r1.backend.hf.import_checkpoint import import_model

    source, target = (folder / name for name in FOLDERS[kind])

    def convert() -> None:
        shutil.rmtree(target, ignore_errors=True)
        if kind == "import":
            import_model(source, target, precision=None, progress=lambda done, total: None)
        else:
            options = ExportOptions(shard_bytes=shard_bytes)
            export_model(source, target, options, progress=lambda done, total: None)

    with command._joined({}):
        found: list[dict[str, Any]] = [
            {"copy": timed(lambda: copy(folder / "model", folder / "copied")), kind: timed(convert)}
            for _ in range(repeats + 1)
        ]
        with Memory() as memory:
            convert()
    return [*found[1:], {"peak_bytes": memory.peak - memory.base}]


def in_child(kind: str, folder: Path, repeats: int, shard_bytes: int) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "benchmarks.convert", "--child", kind, str(folder)]
    command += [str(repeats), str(shard_bytes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def fp8_speed() -> dict[str, float]:
    """GB of bf16 weights a second on one core."""
    import torch

    from megatron_r1.huggingface import fp8

    torch.set_num_threads(1)
    weight = (torch.randn(2048, 7168) * 0.02).bfloat16()
    codes, scales = fp8.quantize(weight)

    def speed(action: Any) -> float:
        times = []
        for _ in range(5):
            began = time.process_time()
            action()
            times.append(time.process_time() - began)
        return weight.nbytes / 1e9 / median(times)

    return {
        "quantize": speed(lambda: fp8.quantize(weight)),
        "dequantize": speed(lambda: fp8.dequantize(codes, scales, torch.bfloat16)),
    }


def run(num_bytes: float, folder: Path, repeats: int, shard_bytes: int) -> dict[str, Any]:
    size = write_model(folder / "model", num_bytes, shard_bytes)
    rows: dict[str, Any] = {}
    for kind in ("import", "export"):
        *rounds, last = in_child(kind, folder, repeats, shard_bytes)
        for name in ("copy", kind):
            rows[f"{name} ({kind}s beside it)" if name == "copy" else kind] = {
                "gb_per_s": size / 1e9 / median(each[name]["seconds"] for each in rounds),
                "seconds": [round(each[name]["seconds"], 2) for each in rounds],
                "cpu_s": [round(each[name]["cpu_s"], 2) for each in rounds],
            }
        rows[kind] |= {
            "share_of_copy": median(each["copy"]["seconds"] / each[kind]["seconds"] for each in rounds),
            "peak_mb": last["peak_bytes"] / 1e6,
        }
    return {"gb": size / 1e9, "shard_gb": shard_bytes / 1e9, **rows, "fp8_gb_per_core_s": fp8_speed()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--gb", type=float, default=4.0)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--shard-mb", type=float, default=500.0)
    parser.add_argument("--child", nargs=4)
    args = parser.parse_args()
    if args.child:
        kind, place, repeats, shard_bytes = args.child
        print(json.dumps(turns(kind, Path(place), int(repeats), int(shard_bytes))))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        print(json.dumps(run(args.gb * 1e9, Path(folder), args.repeats, int(args.shard_mb * 1e6)), indent=1))


if __name__ == "__main__":
    main()

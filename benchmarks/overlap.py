"""What overlapping communication with computation is worth: a training step with it, and with it turned off.

    python -m benchmarks.overlap [--ranks N]

Each case is a layout, and what is turned off in it; on and off take turns on the same processes, and their
losses must agree. On GPUs (NCCL, one a rank, all unless N says fewer) a V3-shaped model in bf16; without them
two gloo ranks on this machine's cores and a small model: there "overlap" has only the cores that compute to
run on, and what is seen is what the schedule costs.
"""

import argparse
import json
import os
import statistics
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing

from benchmarks.measure import free_port, one_thread, timed
from benchmarks.record import as_table, record

ROUNDS, STEPS = 3, 3
LOSSES_AGREE = 2e-3  # relative, in bf16; what overlaps changes the order of sums at most
CPU_RANKS = 2


@dataclass(frozen=True, slots=True)
class Case:
    """on, off: fields of Layout. megatron: fields of TransformerConfig, when on."""

    name: str
    on: dict[str, Any]
    off: dict[str, Any]
    megatron: dict[str, Any] = field(default_factory=dict)


def cases(ranks: int) -> list[Case]:
    shared, chunks = {"expert": ranks}, {"pipeline": 2, "virtual_pipeline": 2}
    ends = {"overlap_p2p_comm_warmup_flush": True}
    return [
        Case("gradients reduced and parameters gathered beside the passes", {"overlap": True}, {}),
        Case("interleaved pipeline", chunks, {"pipeline": 2}),
        Case("interleaved pipeline, filling and draining too", chunks, chunks, ends),
        Case("exchange beside another micro-batch", {**shared, "overlap_experts": True}, shared),
        Case("shared expert beside the exchange", shared, shared, {"moe_shared_expert_overlap": True}),
    ]


@dataclass(frozen=True, slots=True)
class Work:
    """Of a rank in a step."""

    sequences: int
    length: int
    tokens_per_pack: int

    @classmethod
    def here(cls) -> "Work":
        return cls(8, 4096, 4096) if torch.cuda.is_available() else cls(16, 128, 512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ranks", type=int, default=torch.cuda.device_count() or CPU_RANKS)
    rows = measure(parser.parse_args().ranks)
    if not torch.cuda.is_available():
        record("overlap", rows)
        return
    from benchmarks.gpu import _setting as setting

    for row in rows:
        setting.append(
            {**row, "device": setting.device_name(), "torch": torch.__version__}, "gpu_overlap.jsonl"
        )
    print(as_table(rows))


def measure(ranks: int, *, rounds: int = ROUNDS, steps: int = STEPS) -> list[dict[str, Any]]:
    assert ranks > 1, "alone, there is nothing to overlap"
    ports = [free_port() for _ in range(rounds * 2 * len(cases(ranks)))]
    with tempfile.TemporaryDirectory() as folder:
        arguments = (ranks, ports, rounds, steps, folder)
        torch.multiprocessing.spawn(_rank, arguments, nprocs=ranks)  # type: ignore[attr-defined]
        found = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(ranks)]
    return [_row(case.name, ranks, found) for case in cases(ranks)]


def _row(name: str, ranks: int, found: Sequence[dict[str, list[dict[str, float]]]]) -> dict[str, Any]:
    losses = [found[0][f"{name}, {way}"][-1]["loss"] for way in ("on", "off")]
    assert abs(losses[0] / losses[1] - 1) < LOSSES_AGREE, f"{name}: losses {losses}"
    wall, cpu = (
        {w: _median(found, f"{name}, {w}", key) for w in ("on", "off")} for key in ("wall_s", "cpu_s")
    )
    return {
        "what": name,
        "ranks": ranks,
        "s a step": round(wall["on"], 4),
        "s with it off": round(wall["off"], 4),
        "times faster": round(wall["off"] / wall["on"], 2),
        "CPU s": round(cpu["on"], 4),
        "CPU s with it off": round(cpu["off"], 4),
    }


def _median(found: Sequence[dict[str, list[dict[str, float]]]], case: str, key: str) -> float:
    """Of the steps, each as long as its slowest rank's."""
    return statistics.median(
        max(each[key] for each in step) for step in zip(*(rank[case] for rank in found), strict=True)
    )


def _rank(rank: int, ranks: int, ports: list[int], rounds: int, steps: int, folder: str) -> None:
    warnings.filterwarnings("ignore")
    one_thread()
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    found: dict[str, list[dict[str, float]]] = {}
    remaining = iter(ports)
    for _ in range(rounds):
        for case in cases(ranks):
            for way, layout, megatron in (("on", case.on, case.megatron), ("off", case.off, {})):
                os.environ["MASTER_PORT"] = str(next(remaining))
                taken = _steps(ranks, layout, megatron, steps)
                found.setdefault(f"{case.name}, {way}", []).extend(taken)
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))


def _steps(ranks: int, given: dict[str, Any], megatron: dict[str, Any], steps: int) -> list[dict[str, float]]:
    """Timings and losses behind one that warms up."""
    from megatron_r1.backend.model.build import default_options
    from megatron_r1.backend.parallel import process_groups
    from megatron_r1.backend.policy import MegatronPolicy
    from megatron_r1.config.layout import Layout
    from megatron_r1.types import OptimizerOptions, TrainSequence

    layout, work = Layout(ranks=ranks, **given), Work.here()
    process_groups.start(layout)
    options = default_options("bf16")
    family = _family().model_copy(update={"megatron": megatron})
    policy = MegatronPolicy(
        family, layout, options, seed=0, eos_ids=(1,), tokens_per_pack=work.tokens_per_pack
    )
    policy.start_training(OptimizerOptions())
    generator = torch.Generator().manual_seed(policy.replicas.index)
    tokens = torch.randint(2, family.vocab_size, (work.sequences, work.length + 1), generator=generator)
    weights = torch.full((work.length + 1,), 1 / policy.replicas.count / work.sequences / work.length)
    sequences = [TrainSequence(row, weights) for row in tokens]
    losses: list[float] = []

    def step() -> None:
        stats = policy.train_step(sequences, lambda logprobs, entropy, batch: (-logprobs, {}), lr=1e-4)
        losses.append(stats.loss)

    step()
    timings = [timed(step) for _ in range(steps)]
    process_groups.stop()
    return [{**asdict(t), "loss": loss} for t, loss in zip(timings, losses[1:], strict=True)]


def _family() -> Any:
    """Layers that four chunks of a pipeline divide."""
    from megatron_r1.models.deepseek_v3 import DeepseekV3

    if torch.cuda.is_available():
        from benchmarks.gpu import _setting as setting

        return setting.SIZES["v3_proxy"].model_copy(update={"num_layers": 4})
    return DeepseekV3(
        family="deepseek_v3", vocab_size=512, num_layers=4, hidden_size=128, num_attention_heads=4,
        q_lora_rank=64, kv_lora_rank=32, qk_head_dim=32, qk_pos_emb_head_dim=16, v_head_dim=32,
        ffn_hidden_size=384, num_experts=8, experts_per_token=2, moe_ffn_hidden_size=128,
        num_expert_groups=4, groups_per_token=2, init_std=0.02,
    )  # fmt: skip


if __name__ == "__main__":
    main()

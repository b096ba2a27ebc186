"""What NeMo samples while the model trains. Needs NeMo's environment (tests/nemo)."""

from pathlib import Path
from typing import Any

import megatron.core.transformer.attention as megatron_attention
from megatron.core.inference.utils import InferenceMode

from megatron_r1.backend.rollout import engine as rollout
from megatron_r1.backend.rollout import nemo_engine
from megatron_r1.config.layout import Layout
from tests.distributed.scenarios import models, rollouts, train


def between_updates(layout: Layout, shared: Path, *, engine: rollout.Engine) -> dict[str, Any]:
    """Outputs before each of two updates and after both, the losses, and how often NeMo's `generate` ran."""
    policy = models.policy("qwen2", layout, seed=11)
    policy.rollout_options.engine = engine
    policy.start_training(models.OPTIMIZER)
    calls = []
    if engine == "nemo":
        nemo = nemo_engine._inference()
        working = nemo.generate
        nemo.generate = lambda *args, **options: calls.append(1) or working(*args, **options)
    flash = megatron_attention.is_fa_min_version
    outputs, losses = [], []
    for step in range(3):
        outputs.append(rollouts._sample(policy, rollouts.SAMPLINGS["sampled"], 4))
        if step < 2:
            losses += train.steps(policy, step, step + 1)["loss"]
    if engine == "nemo":
        assert nemo.MCoreEngine is nemo_engine.MCoreEngine
        nemo.generate = working
    assert megatron_attention.is_fa_min_version is flash
    assert not InferenceMode.is_active()
    return {"outputs": outputs, "losses": losses, "calls": len(calls)}

"""Offload on a GPU: the bytes are free while it samples, and updates are the same to the bit."""

import gc

import pytest
import torch

from megatron_r1.backend.model.build import default_options
from megatron_r1.types import OptimizerOptions, Sampling
from tests.gpu import small

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("rank")]


def _run(*, offload: bool) -> tuple[list[float], int]:
    """Losses of two updates around a rollout, and the bytes that the rollout finds free in place of held."""
    engine = default_options("bf16").transformer_engine
    policy = small.policy("v3", precision="bf16", transformer_engine=engine)
    policy.offload = frozenset(("optimizer", "reference")) if offload else frozenset()
    policy.start_training(OptimizerOptions())
    policy.refresh_reference()
    losses = [policy.train_step(small.sequences(0), small.cross_entropy, lr=1e-3).loss]
    gc.collect()  # of the run before
    before = torch.cuda.memory_allocated()
    policy.generate([[5, 6, 7]], Sampling(1), keys=[0])
    freed = before - torch.cuda.memory_allocated()
    policy.logprobs(small.sequences(0), reference=True)
    losses.append(policy.train_step(small.sequences(0), small.cross_entropy, lr=1e-3).loss)
    return losses, freed


def test_a_rollout_finds_their_memory_free_and_updates_are_the_same():
    (still, none), (moved, freed) = _run(offload=False), _run(offload=True)
    parameters = sum(p.numel() for p in small.policy("v3", precision="bf16").chunks[0].parameters())
    # masters, moments and gradients 16 bytes a weight, the reference 2; a rollout may keep some for itself
    assert freed - none == pytest.approx(18 * parameters, rel=0.02)
    assert moved == still

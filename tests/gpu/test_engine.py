"""Transformer Engine's modules against Megatron's own, and FP8 against fp32. None of it can run on a CPU."""

import pytest
import torch

from megatron_r1.backend.model.precision import CAPABILITIES, transformer_engine_available
from megatron_r1.backend.policy import MegatronPolicy
from tests.gpu import small
from tests.gpu.engine_names import engine_name

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.usefixtures("rank")]


@pytest.fixture(autouse=True)
def _engine_is_there() -> None:
    if not transformer_engine_available():
        pytest.skip("needs Transformer Engine: pip install 'megatron-r1[gpu]'")


@pytest.mark.parametrize("family", sorted(small.FAMILIES))
def test_the_engines_modules_agree_with_megatrons_own(family: str):
    own = small.policy(family, precision="bf16")
    engine = small.policy(family, precision="bf16", transformer_engine=True)
    copy_weights(own, engine)
    for a, b in zip(own.logprobs(small.sequences(0)), engine.logprobs(small.sequences(0)), strict=True):
        assert float((a - b).abs().mean()) < 0.01


@pytest.mark.parametrize("recipe", sorted(CAPABILITIES))
@pytest.mark.parametrize("family", sorted(small.FAMILIES))
def test_losses_in_fp8_stay_near_fp32(family: str, recipe: str):
    if torch.cuda.get_device_capability() < CAPABILITIES[recipe]:
        pytest.skip(f"{recipe} needs compute capability {CAPABILITIES[recipe]}")
    exact = small.losses(small.policy(family))
    found = small.losses(small.policy(family, precision=recipe, transformer_engine=True))
    assert found == pytest.approx(exact, rel=0.03)


def copy_weights(source: MegatronPolicy, target: MegatronPolicy) -> None:
    """From the local spec to the engine's; every weight of the target must be met."""
    config = source.chunks[0].config
    pattern = config.moe_layer_freq if config.num_moe_experts else [0] * config.num_layers
    found = dict(target.chunks[0].named_parameters())
    with torch.no_grad():
        for name, weight in source.chunks[0].named_parameters():
            layer = int(name.split(".")[2]) if name.startswith("decoder.layers.") else 0
            renamed = engine_name(
                name, latent=config.multi_latent_attention, has_experts=bool(pattern[layer])
            )
            found.pop(renamed).copy_(weight)
    assert not found, f"weights without a source: {sorted(found)}"

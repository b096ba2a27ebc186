"""One rank in bf16: on a CPU the local spec, on a GPU what default_options chooses."""

import gc
import math
import weakref

import pytest
import torch

from megatron_r1.backend.model.build import default_options
from megatron_r1.backend.parallel.process_groups import device
from megatron_r1.backend.policy import MegatronPolicy
from megatron_r1.backend.rollout import engine as rollout
from megatron_r1.backend.rollout.decoder import linear
from megatron_r1.backend.rollout.fp8 import RolloutPrecision
from megatron_r1.config.layout import Layout
from megatron_r1.types import OptimizerOptions
from tests.gpu import small

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("rank")]

FAMILIES = sorted(small.FAMILIES)
LAYOUTS = {
    "replicated_optimizer": Layout(distributed_optimizer=False),
    "overlap": Layout(overlap=True),
}


def _engine() -> bool:
    return default_options("bf16").transformer_engine


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_and_buffers_are_all_on_the_device(family: str):
    chunk = small.policy(family, precision="bf16", transformer_engine=_engine()).chunks[0]
    assert {tensor.device.type for tensor in [*chunk.parameters(), *chunk.buffers()]} == {device().type}


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_in_bf16_stay_near_fp32(family: str):
    exact = small.losses(small.policy(family))
    found = small.losses(small.policy(family, precision="bf16", transformer_engine=_engine()))
    assert found == pytest.approx(exact, rel=0.01)
    assert exact[-1] < exact[0] - 0.05  # it learns, so that agreement says something


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_layouts_of_one_rank_train_alike(family: str, layout: str):
    options = {"precision": "bf16", "transformer_engine": _engine()}
    expected = small.losses(small.policy(family, **options))
    assert small.losses(small.policy(family, LAYOUTS[layout], **options)) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("recompute", ["full", "selective"])
@pytest.mark.parametrize("family", FAMILIES)
def test_recomputation_changes_nothing(family: str, recompute: str):
    options = {"precision": "bf16", "transformer_engine": _engine()}
    expected = small.losses(small.policy(family, **options))
    assert small.losses(small.policy(family, recompute=recompute, **options)) == pytest.approx(
        expected, rel=2e-3
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_of_logits_change_nothing(family: str):
    options = {"precision": "bf16", "transformer_engine": _engine()}
    expected = small.losses(small.policy(family, **options))
    chunked = small.policy(family, max_logits=40 * small.VOCABULARY, **options)
    assert small.losses(chunked) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_trained_is_freed_with_its_policy(family: str):
    policy = small.policy(family, precision="bf16", transformer_engine=_engine())
    policy.start_training(OptimizerOptions())
    policy.train_step(small.sequences(0), small.cross_entropy, lr=1e-3)
    model, optimizer = weakref.ref(policy.models[0]), weakref.ref(policy.optimizer)
    del policy
    gc.collect()
    assert model() is None
    assert optimizer() is None


ENGINES = [("v3", "megatron"), ("qwen2", "megatron"), ("qwen2", "dynamic")]


@pytest.mark.parametrize(("family", "engine"), ENGINES)
def test_the_rollout_is_near_the_training_forward_in_bf16(family: str, engine: rollout.Engine):
    policy = small.policy(family, precision="bf16", transformer_engine=_engine())
    policy.rollout_options.engine = engine
    assert _perplexity_of_the_gap(policy) < 1.05


@pytest.mark.parametrize(("family", "mtp_layers"), [("v3", 0), ("v3", 1), ("qwen2", 0)])
def test_a_rollout_in_fp8_is_near_it_too(family: str, mtp_layers: int):
    policy = small.policy(family, precision="bf16", transformer_engine=_engine(), mtp_layers=mtp_layers)
    policy.rollout_options.speculation = "mtp" if mtp_layers else None
    stored = _perplexity_of_the_gap(policy)
    policy.rollout_options.precision = "fp8"
    assert stored < _perplexity_of_the_gap(policy) < 1.05


@pytest.mark.gpu
def test_one_product_of_all_experts_in_fp8_is_one_for_each():
    """Groups of any size, an empty one, and rows behind the last, which belong to none."""
    generator = torch.Generator(device()).manual_seed(0)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device(), dtype=torch.bfloat16)

    ups, downs = ([numbers(*shape) for _ in range(4)] for shape in ((256, 128), (128, 128)))
    counts = [3, 0, 17, 1]
    tokens = numbers(sum(counts) + 5, 128)
    ends = torch.tensor(counts, device=device()).cumsum(0).int()
    products = linear.expert_products(ups, downs, "fp8")
    if not products.grouped:
        pytest.skip("torch's grouped product of FP8 is for compute capability 9.0")
    for times, weights in ((products.up, ups), (products.down, downs)):
        parts = tokens[: sum(counts)].split(counts)
        each = [linear.product(w, "fp8")(x) for x, w in zip(parts, weights, strict=True) if len(x)]
        torch.testing.assert_close(times(tokens, ends)[: sum(counts)], torch.cat(each), rtol=2**-7, atol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", [None, "fp8"])
def test_steps_as_graphs_are_near_it_too(family: str, precision: RolloutPrecision | None):
    policy = small.policy(family, precision="bf16", transformer_engine=_engine())
    policy.rollout_options.cuda_graphs, policy.rollout_options.precision = True, precision
    assert _perplexity_of_the_gap(policy) < 1.05


def test_with_drafts_too():
    policy = small.policy("v3", precision="bf16", transformer_engine=_engine(), mtp_layers=1)
    policy.rollout_options.speculation = "mtp"
    assert _perplexity_of_the_gap(policy) < 1.05


def _perplexity_of_the_gap(policy: MegatronPolicy) -> float:
    """exp of the mean difference between the log-probs of sampling and of training's forward."""
    sequences, outputs = small.rollout(policy)
    gaps = [
        (values[s.weights > 0] - torch.tensor(output.logprobs)).abs()
        for s, values, output in zip(sequences, policy.logprobs(sequences), outputs, strict=True)
    ]
    return math.exp(float(torch.cat(gaps).mean()))

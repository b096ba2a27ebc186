"""Advantage, loss and gradient against TRL's GRPOTrainer on the same tensors.

A real trainer on a tiny Qwen2 runs its own scoring and loss; only sampling, the model's log-probs and
the rewards are replaced by fixed float64 tensors. TRL pads to [B, S]; ours packs the same values behind
prompts of random numbers, which must not matter. Where TRL differs from the papers, the papers win and
a test named `..._unlike_trl` asserts the difference.
"""

# B outputs, S padded response length

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from megatron_r1.rl.advantage import advantage_of_parts, group_advantage
from megatron_r1.rl.aggregation import token_weights
from megatron_r1.rl.losses import GrpoLoss
from megatron_r1.types import LossInputs, PackedBatch

GROUP_SIZE = 4
MAX_LENGTH = 9
LENGTHS = [5, 9, 1, 7, 3, 9, 6, 2]
PROMPTS = [3, 1, 2, 4, 1, 1, 5, 2]
REWARDS = [1.0, 0.0, 0.5, 0.0, 0.0, 2.0, 1.0, 1.0]
MODE, FLOOR, CAP = (f"vllm_importance_sampling_{name}" for name in ("mode", "clip_min", "clip_max"))
DEFAULTS: dict[str, Any] = {
    "loss_type": "grpo",
    "importance_sampling_level": "token",
    "epsilon_low": 0.2,
    "epsilon_high": 0.2,
    "beta": 0.0,
    "off_policy_mask_threshold": None,
    "scale_rewards": "group",
    "use_vllm": False,
    "vllm_importance_sampling_correction": True,
    MODE: "token_truncate",
    FLOOR: None,
    CAP: 2.0,
    "num_iterations": 2,  # so that TRL scores old log-probs
    "delta": None,
    "use_bias_correction_kl": False,
    "sapo_temperature_pos": 1.0,
    "sapo_temperature_neg": 1.05,
    "vespo_k_pos": 2.0,
    "multi_objective_aggregation": "sum_then_normalize",
    "reward_weights": torch.ones(1, dtype=torch.float64),
}
READ_FROM_ARGS = (
    "delta", "use_bias_correction_kl", "sapo_temperature_pos", "sapo_temperature_neg", "vespo_k_pos",
)  # fmt: skip

pytestmark = [
    pytest.mark.slow,  # importing TRL and building its trainer takes 20 s
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@dataclass
class Rollout:
    """Log-probs [B, S] in float64 as every party sees them; 0 behind each output's end."""

    policy: Tensor
    old: Tensor
    reference: Tensor
    sampler: Tensor
    rewards: list[Any] = field(default_factory=lambda: list(REWARDS))

    @property
    def mask(self) -> Tensor:
        return torch.arange(MAX_LENGTH) < torch.tensor(LENGTHS)[:, None]


def make_rollout(*, spread: float = 0.4, rewards: list[Any] | None = None) -> Rollout:
    generator = torch.Generator().manual_seed(7)

    def noise() -> Tensor:
        return spread * torch.randn(len(LENGTHS), MAX_LENGTH, generator=generator, dtype=torch.float64)

    policy = -1.5 + noise()
    parts = [policy, policy + noise(), policy + noise()]
    rollout = Rollout(*parts, parts[1] + noise(), rewards or list(REWARDS))
    for tensor in (rollout.policy, rollout.old, rollout.reference, rollout.sampler):
        tensor[~rollout.mask] = 0.0
    return rollout


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("qwen2")
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<eos>", "a", "b"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    config = Qwen2Config(
        vocab_size=4, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, max_position_embeddings=32, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    arguments = GRPOConfig(
        output_dir=str(folder / "out"), per_device_train_batch_size=len(LENGTHS), num_generations=GROUP_SIZE,
        max_completion_length=MAX_LENGTH, beta=0.1, use_cpu=True, bf16=False, report_to=[],
    )  # fmt: skip
    data = Dataset.from_dict({"prompt": ["a b"] * len(LENGTHS)})
    yield GRPOTrainer(
        str(folder), reward_funcs=lambda completions, **_: [0.0] * len(completions), args=arguments,
        train_dataset=data, processing_class=tokenizer,
    )  # fmt: skip
    torch.set_num_threads(threads)


def run_trl(trainer, rollout: Rollout, **settings) -> SimpleNamespace:
    """TRL's advantages, loss, gradient of the log-probs and metrics with these settings."""
    for name, value in (DEFAULTS | settings).items():
        owner = trainer.args if name in READ_FROM_ARGS else trainer
        assert hasattr(owner, name), f"TRL has no setting {name}"
        setattr(owner, name, value)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    trainer._metrics["train"].clear()
    policy = rollout.policy.clone().requires_grad_()

    def score(model, *_, **__):
        by_reference = model is trainer.ref_model
        logprobs = policy if torch.is_grad_enabled() else rollout.reference if by_reference else rollout.old
        return logprobs, torch.zeros_like(logprobs), None

    ids = [[2] * (length - 1) + [1] for length in LENGTHS]
    sampler = [row[:length].tolist() for row, length in zip(rollout.sampler, LENGTHS, strict=True)]
    texts = ["a"] * len(LENGTHS)
    trainer._get_per_token_logps_and_entropies = score
    trainer._generate = lambda prompts: ([[2, 3]] * len(ids), ids, None, texts, sampler, {}, None, None)
    rewards = torch.tensor(rollout.rewards, dtype=torch.float64).view(len(ids), -1)
    trainer.reward_funcs = trainer.reward_func_names = [f"reward {i}" for i in range(rewards.shape[1])]
    trainer._calculate_rewards = lambda *_: rewards
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # TRL rebuilds the sampler's log-probs from lists
    try:
        inputs = trainer._generate_and_score_completions([{"prompt": "a b"}] * len(ids))
        loss = trainer._compute_loss(trainer.model, inputs)
    finally:
        torch.set_default_dtype(default)
    (gradient,) = torch.autograd.grad(loss, policy)
    metrics = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    return SimpleNamespace(
        advantage=inputs["advantages"], loss=loss.detach(), gradient=gradient, metrics=metrics
    )


def pack(
    rollout: Rollout, policy: Tensor, advantage: Tensor, weights: list[float]
) -> tuple[Tensor, PackedBatch]:
    """The log-probs [T] and the batch: each output behind its prompt of noise, then one padding sequence."""
    generator = torch.Generator().manual_seed(1)

    def row(values: Tensor, *, noise: float = 1.0) -> Tensor:
        pieces = []
        for index, length in enumerate(LENGTHS):
            prompt = torch.randn(PROMPTS[index], generator=generator, dtype=torch.float64)
            pieces += [noise * prompt, values[index, :length]]
        return torch.cat([*pieces, torch.zeros(4)])

    per_output = {"advantage": advantage.double(), "weights": torch.tensor(weights, dtype=torch.float64)}
    per_token = {name: values[:, None].expand(-1, MAX_LENGTH) for name, values in per_output.items()}
    inputs = LossInputs(
        advantages=row(per_token["advantage"]),
        old_logprobs=row(rollout.old),
        ref_logprobs=row(rollout.reference),
        rollout_logprobs=row(rollout.sampler),
    )
    packed_weights = row(per_token["weights"], noise=0.0)
    sizes = [prompt + length for prompt, length in zip(PROMPTS, LENGTHS, strict=True)] + [4]
    offsets = torch.tensor([0, *sizes]).cumsum(0).int()
    unused = torch.zeros(sum(sizes), dtype=torch.long)
    return row(policy), PackedBatch(unused, unused, packed_weights, unused, offsets, inputs)


def run_ours(
    rollout: Rollout,
    advantage: Tensor,
    *,
    aggregation="sequence_mean",
    absent: tuple[str, ...] = (),
    **options,
) -> SimpleNamespace:
    """Our loss, gradient of the log-probs and metrics."""
    weights = token_weights(
        LENGTHS,
        aggregation=aggregation,
        num_outputs=len(LENGTHS),
        num_tokens=sum(LENGTHS),
        max_length=MAX_LENGTH,
    )
    policy = rollout.policy.clone().requires_grad_()
    logprobs, batch = pack(rollout, policy, advantage, weights)
    without = replace(batch.loss_inputs, **dict.fromkeys(absent))
    batch = replace(batch, loss_inputs=without)
    loss_per_token, sums = GrpoLoss(**{"kl": "none"} | options).function()(logprobs, None, batch)
    loss = (loss_per_token * batch.weights).sum()
    (gradient,) = torch.autograd.grad(loss, policy)
    metrics = {name: (value[0] / value[1]).item() for name, value in sums.items()}
    return SimpleNamespace(loss=loss.detach(), gradient=gradient, metrics=metrics)


def grouped(rollout: Rollout) -> Tensor:
    return torch.tensor(rollout.rewards).view(-1, GROUP_SIZE)


def assert_same(ours: SimpleNamespace, trl: SimpleNamespace) -> None:
    assert trl.gradient.abs().max() > 1e-3
    torch.testing.assert_close(ours.loss, trl.loss, rtol=0, atol=1e-9)
    torch.testing.assert_close(ours.gradient, trl.gradient, rtol=0, atol=1e-9)


# name: (TRL's settings, ours)
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "grpo": ({}, {}),
    "bnpo": ({"loss_type": "bnpo"}, {"aggregation": "token_mean"}),
    "dapo": ({"loss_type": "dapo", "epsilon_high": 0.28}, {"aggregation": "token_mean", "clip_high": 0.28}),
    "dr_grpo": ({"loss_type": "dr_grpo"}, {"aggregation": "fixed_length"}),
    "gspo": (
        {"importance_sampling_level": "sequence", "epsilon_low": 0.03, "epsilon_high": 0.04},
        {"ratio": "sequence", "clip_low": 0.03, "clip_high": 0.04},
    ),
    "gspo, token mean": (
        {"importance_sampling_level": "sequence", "loss_type": "bnpo"},
        {"ratio": "sequence", "aggregation": "token_mean"},
    ),
    "gspo, k3": (
        {"importance_sampling_level": "sequence", "beta": 0.1},
        {"ratio": "sequence", "kl": "k3", "kl_coef": 0.1},
    ),
    "eps 10": ({"epsilon_low": 10.0, "epsilon_high": 10.0}, {"clip_low": 10.0, "clip_high": 10.0}),
    "delta": ({"delta": 1.4}, {"delta": 1.4}),
    "k3": ({"beta": 0.1}, {"kl": "k3", "kl_coef": 0.1}),
    "k3 weighted": ({"beta": 0.1, "use_bias_correction_kl": True}, {"kl": "k3_weighted", "kl_coef": 0.1}),
    "truncate": (
        {"use_vllm": True, "beta": 0.1},
        {"rollout_correction": "truncate", "kl": "k3", "kl_coef": 0.1},
    ),
    "truncate both sides": (
        {"use_vllm": True, FLOOR: 0.8, CAP: 1.2},
        {"rollout_correction": "truncate", "rollout_floor": 0.8, "rollout_cap": 1.2},
    ),
    "mask": (
        {"use_vllm": True, MODE: "token_mask", CAP: 1.1},
        {"rollout_correction": "mask", "rollout_cap": 1.1},
    ),
    "mask both sides": (
        {"use_vllm": True, MODE: "token_mask", FLOOR: 0.8, CAP: 1.2},
        {"rollout_correction": "mask", "rollout_floor": 0.8, "rollout_cap": 1.2},
    ),
    "truncate sequences": (
        {"use_vllm": True, MODE: "sequence_truncate", FLOOR: 0.5},
        {"rollout_correction": "truncate", "rollout_level": "sequence", "rollout_floor": 0.5},
    ),
    "mask sequences": (
        {"use_vllm": True, MODE: "sequence_mask", "beta": 0.1},
        {"rollout_correction": "mask", "rollout_level": "sequence", "kl": "k3", "kl_coef": 0.1},
    ),
    "mask sequences both sides, of a sequence ratio": (
        {
            "use_vllm": True,
            MODE: "sequence_mask",
            FLOOR: 0.5,
            CAP: 1.5,
            "importance_sampling_level": "sequence",
        },
        {
            "rollout_correction": "mask",
            "rollout_level": "sequence",
            "rollout_floor": 0.5,
            "rollout_cap": 1.5,
            "ratio": "sequence",
        },
    ),
    "delta below the clip": (
        {"delta": 1.3, "epsilon_low": 10.0, "epsilon_high": 10.0},
        {"delta": 1.3, "clip_low": 10.0, "clip_high": 10.0},
    ),
    "sapo": ({"loss_type": "sapo"}, {"objective": "sapo"}),
    "sapo, other temperatures, k3": (
        {"loss_type": "sapo", "sapo_temperature_pos": 5.0, "sapo_temperature_neg": 10.0, "beta": 0.1},
        {
            "objective": "sapo",
            "sapo": {"temperature_positive": 5.0, "temperature_negative": 10.0},
            "kl": "k3",
            "kl_coef": 0.1,
        },
    ),
    "sapo of a sequence ratio, truncate": (
        {
            "loss_type": "sapo",
            "importance_sampling_level": "sequence",
            "use_vllm": True,
            MODE: "sequence_truncate",
        },
        {
            "objective": "sapo",
            "ratio": "sequence",
            "rollout_correction": "truncate",
            "rollout_level": "sequence",
        },
    ),
    "luspo": (
        {
            "loss_type": "luspo",
            "importance_sampling_level": "sequence",
            "epsilon_low": 0.03,
            "epsilon_high": 0.04,
        },
        {"aggregation": "sequence_sum", "ratio": "sequence", "clip_low": 0.03, "clip_high": 0.04},
    ),
    "luspo, k3": (
        {"loss_type": "luspo", "importance_sampling_level": "sequence", "beta": 0.1},
        {"aggregation": "sequence_sum", "ratio": "sequence", "kl": "k3", "kl_coef": 0.1},
    ),
    "luspo of a token ratio": ({"loss_type": "luspo"}, {"aggregation": "sequence_sum"}),
    "vespo": ({"loss_type": "vespo"}, {"objective": "vespo", "aggregation": "token_mean"}),
    "vespo, another k, k3": (
        {"loss_type": "vespo", "vespo_k_pos": 1.5, "beta": 0.1},
        {
            "objective": "vespo",
            "aggregation": "token_mean",
            "vespo": {"k_positive": 1.5},
            "kl": "k3",
            "kl_coef": 0.1,
        },
    ),
    "vespo, truncate": (
        {"loss_type": "vespo", "use_vllm": True, CAP: 1.2},
        {
            "objective": "vespo",
            "aggregation": "token_mean",
            "rollout_correction": "truncate",
            "rollout_cap": 1.2,
        },
    ),
    "vespo, mask, off-policy sequences": (
        {
            "loss_type": "vespo",
            "use_vllm": True,
            MODE: "token_mask",
            CAP: 4.0,
            "off_policy_mask_threshold": 0.05,
        },
        {
            "objective": "vespo",
            "aggregation": "token_mean",
            "rollout_correction": "mask",
            "rollout_cap": 4.0,
            "off_policy_threshold": 0.05,
        },
    ),
    "cispo, cap below 1": (
        {"loss_type": "cispo"},
        {"objective": "cispo", "aggregation": "token_mean", "clip_low": 1.0, "clip_high": -0.8},
    ),
    "off-policy sequences": ({"off_policy_mask_threshold": 0.05}, {"off_policy_threshold": 0.05}),
}


@pytest.fixture(scope="module")
def rollout():
    return make_rollout()


@pytest.fixture(scope="module")
def plain(trainer, rollout):
    """TRL's plain GRPO on the same rollout."""
    return run_trl(trainer, rollout)


@pytest.mark.parametrize("name", VARIANTS)
def test_loss_and_gradient_equal_trls(trainer, rollout, plain, name):
    settings, options = VARIANTS[name]
    trl = run_trl(trainer, rollout, **settings)
    assert_same(run_ours(rollout, trl.advantage, **options), trl)
    assert not settings or not torch.allclose(trl.gradient, plain.gradient), "the setting had no effect"


def test_the_first_update_of_a_rollout_equals_trls(trainer, rollout):
    # TRL skips the old log-probs with one update a rollout; so do we without the field
    trl = run_trl(trainer, rollout, num_iterations=1, beta=0.1, use_bias_correction_kl=True)
    on_policy = replace(rollout, old=rollout.policy)
    ours = run_ours(on_policy, trl.advantage, absent=("old_logprobs",), kl="k3_weighted", kl_coef=0.1)
    assert_same(ours, trl)
    assert ours.metrics["ratio"] == 1


def test_metrics_equal_trls(trainer, rollout):
    trl = run_trl(trainer, rollout, use_vllm=True, beta=0.1)
    ours = run_ours(rollout, trl.advantage, rollout_correction="truncate", kl="k3")
    pairs = {
        "kl": "kl",
        "clip_low": "clip_ratio/low_mean",
        "clip_high": "clip_ratio/high_mean",
        "drift": "sampling/sampling_logp_difference/mean",
        "correction": "sampling/importance_sampling_ratio/mean",
    }
    for name, theirs in pairs.items():
        assert trl.metrics[theirs] > 0
        assert ours.metrics[name] == pytest.approx(trl.metrics[theirs], abs=1e-9), name


def test_advantage_equals_trls_with_its_std_and_eps(trainer, rollout):
    trl = run_trl(trainer, rollout)
    ours = group_advantage(grouped(rollout), ddof=1, eps=1e-4)
    torch.testing.assert_close(ours.flatten().double(), trl.advantage.double(), rtol=0, atol=1e-6)


def test_advantage_without_std_equals_trls(trainer, rollout):
    trl = run_trl(trainer, rollout, scale_rewards="none")
    ours = group_advantage(grouped(rollout), normalise="none")
    torch.testing.assert_close(ours.flatten().double(), trl.advantage.double(), rtol=0, atol=1e-6)


def test_advantage_by_the_batch_s_std_equals_trls(trainer, rollout):
    trl = run_trl(trainer, rollout, scale_rewards="batch")
    ours = group_advantage(grouped(rollout), normalise="batch", ddof=1, eps=1e-4)
    torch.testing.assert_close(ours.flatten().double(), trl.advantage.double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("missing", [(), (2,), (2, 5, 6)])
def test_rewards_normalised_before_their_sum_equal_trls(trainer, missing):
    """missing: outputs that the second reward doesn't judge."""
    generator = torch.Generator().manual_seed(11)
    parts = torch.rand(len(LENGTHS), 3, generator=generator, dtype=torch.float64)
    parts[:, 0] = torch.tensor(REWARDS)
    parts[list(missing), 1] = torch.nan
    weights = torch.tensor([1.0, 0.5, -2.0], dtype=torch.float64)
    settings = {"multi_objective_aggregation": "normalize_then_sum", "reward_weights": weights}
    trl = run_trl(trainer, make_rollout(rewards=parts.tolist()), **settings)
    ours = advantage_of_parts(parts.view(-1, GROUP_SIZE, 3), weights, ddof=1, eps=1e-4)
    torch.testing.assert_close(ours.flatten().double(), trl.advantage.double(), rtol=0, atol=1e-6)


def test_ungradable_outputs_leave_the_group_as_in_trl(trainer):
    rollout = make_rollout(rewards=[1.0, torch.nan, 0.5, 0.0, torch.nan, 2.0, 1.0, torch.nan])
    trl = run_trl(trainer, rollout)
    ours = group_advantage(grouped(rollout), ddof=1, eps=1e-4)
    torch.testing.assert_close(ours.flatten().double(), trl.advantage.double(), rtol=0, atol=1e-6)
    assert [trl.advantage[index].item() for index in (1, 4, 7)] == [0, 0, 0]


def test_the_default_std_is_the_populations_and_has_no_large_eps_unlike_trl(trainer, rollout):
    """The paper divides by std({r_1 .. r_G}); TRL by the unbiased std + 1e-4, which makes groups smaller."""
    trl = run_trl(trainer, rollout)
    ours = group_advantage(grouped(rollout))  # [2, 4]
    torch.testing.assert_close(ours.square().mean(dim=1), torch.ones(2), rtol=0, atol=1e-5)
    unbiased = grouped(rollout).std(dim=1, keepdim=True)  # [2, 1]
    expected = ours * (3 / 4) ** 0.5 * unbiased / (unbiased + 1e-4)
    torch.testing.assert_close(trl.advantage.view(2, 4).float(), expected.float(), rtol=0, atol=1e-5)
    assert (trl.advantage.view(2, 4) - ours).abs().max() > 0.1


def test_cispo_equals_trls_when_its_cap_is_written_as_one_plus_clip_high(trainer, rollout):
    trl = run_trl(trainer, rollout, loss_type="cispo", epsilon_high=1.3, beta=0.1)
    options = {"objective": "cispo", "clip_low": 1.0, "clip_high": 0.3, "kl": "k3", "kl_coef": 0.1}
    assert_same(run_ours(rollout, trl.advantage, aggregation="token_mean", **options), trl)


def test_cispo_weights_are_clipped_around_one_unlike_trl(trainer, rollout):
    """2506.13585 clips to [1 - eps_low, 1 + eps_high]; TRL to at most eps_high, with no lower bound."""
    trl = run_trl(trainer, rollout, loss_type="cispo")
    ours = run_ours(rollout, trl.advantage, aggregation="token_mean", objective="cispo")
    ratio = (rollout.policy - rollout.old).exp()
    scale = -trl.advantage.double()[:, None] * rollout.mask / sum(LENGTHS)
    torch.testing.assert_close(ours.gradient, ratio.clamp(0.8, 1.2) * scale, rtol=0, atol=1e-9)
    torch.testing.assert_close(trl.gradient, ratio.clamp(max=0.2) * scale, rtol=0, atol=1e-9)


def test_k3_is_weighted_by_the_tokens_own_ratio_unlike_trl(trainer, rollout):
    """2512.02556 weighs the KL of a token by its ratio; TRL by the sequence's ratio if that is the level."""
    settings = {"importance_sampling_level": "sequence", "beta": 0.1}
    trl = run_trl(trainer, rollout, **settings, use_bias_correction_kl=True)
    plain_k3 = run_trl(trainer, rollout, **settings)
    options = {"ratio": "sequence", "kl_coef": 0.1}
    ours = run_ours(rollout, trl.advantage, kl="k3_weighted", **options)
    gap = rollout.policy - rollout.reference
    k3 = torch.exp(-gap) + gap - 1
    extra = k3 * (torch.exp(rollout.policy - rollout.old) - 1) * rollout.mask
    extra = (extra.sum(dim=1) / torch.tensor(LENGTHS)).mean()
    torch.testing.assert_close(ours.loss, plain_k3.loss + 0.1 * extra, rtol=0, atol=1e-9)
    assert (ours.loss - trl.loss).abs() > 1e-4


def test_a_corrected_token_of_a_sequence_ratio_keeps_its_own_weight_unlike_trl(trainer, rollout):
    """In GSPO-token (2507.18071, section 4.3) each token carries the gradient of its own term; TRL spreads
    the mean correction over the whole output. The losses agree."""
    settings = {"importance_sampling_level": "sequence", "epsilon_low": 10.0, "epsilon_high": 10.0}
    trl = run_trl(trainer, rollout, **settings, use_vllm=True)
    options = {"ratio": "sequence", "clip_low": 10.0, "clip_high": 10.0, "rollout_correction": "truncate"}
    ours = run_ours(rollout, trl.advantage, **options)
    torch.testing.assert_close(ours.loss, trl.loss, rtol=0, atol=1e-9)
    lengths = torch.tensor(LENGTHS)[:, None]
    ratio = ((rollout.policy - rollout.old).sum(dim=1, keepdim=True) / lengths).exp()
    weight = (rollout.old - rollout.sampler).exp().clamp(max=2) * rollout.mask
    scale = -trl.advantage.double()[:, None] * ratio / (len(LENGTHS) * lengths)
    torch.testing.assert_close(ours.gradient, scale * weight, rtol=0, atol=1e-9)
    spread = weight.sum(dim=1, keepdim=True) / lengths * rollout.mask
    torch.testing.assert_close(trl.gradient, scale * spread, rtol=0, atol=1e-9)


def test_on_policy_distillation_has_trl_s_reverse_kl_and_its_gradient():
    """GKD with beta = 1 has whole distributions; ours one drawn token. Over all tokens, each as often as the
    student draws it, both are the same to 1e-12."""
    from trl.experimental.gkd import GKDTrainer

    from megatron_r1.rl.distillation import reverse_kl_loss

    generator, positions, vocabulary, temperature = torch.Generator().manual_seed(3), 5, 7, 0.7
    student, teacher = torch.randn(2, positions, vocabulary, generator=generator, dtype=torch.float64)
    student.requires_grad_()
    theirs = GKDTrainer.generalized_jsd_loss(
        student[None], teacher[None], torch.zeros(1, positions), beta=1, temperature=temperature
    )
    (their_gradient,) = torch.autograd.grad(theirs, student)

    logprobs = (student / temperature).log_softmax(-1).flatten()  # every token at every position
    drawn = logprobs.detach().exp() / positions  # how often, and the mean over positions
    unused = torch.zeros(positions * vocabulary, dtype=torch.long)
    inputs = LossInputs(
        teacher_logprobs=(teacher / temperature).log_softmax(-1).flatten(), rollout_logprobs=logprobs.detach()
    )
    batch = PackedBatch(unused, unused, drawn, unused, torch.tensor([0, len(unused)]).int(), inputs)
    loss, sums = reverse_kl_loss(logprobs, None, batch)
    ours = (loss * drawn).sum()
    (gradient,) = torch.autograd.grad(ours, student)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-12)
    assert torch.allclose(gradient, their_gradient, rtol=0, atol=1e-12)
    assert float(sums["drift"][0]) == 0

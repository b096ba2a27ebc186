"""The balance loss is a sequence's, and neither the packing nor its padding moves anything."""

import pytest
import torch
from megatron.core.transformer.moe.moe_utils import switch_load_balancing_loss_func

from megatron_r1.backend.model.attention import Counting
from megatron_r1.backend.model.router import sequence_balance
from tests.distributed.harness import plan
from tests.distributed.harness.ranks import Results


class Alone:
    """A process group of one rank."""

    def size(self) -> int:
        return 1


def routed(num_tokens: int, *, experts: int = 4, top_k: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    scores = torch.rand(num_tokens, experts, generator=torch.Generator().manual_seed(num_tokens))
    chosen = torch.zeros(num_tokens, experts).scatter(1, scores.topk(top_k, dim=1).indices, 1.0).bool()
    return scores / scores.sum(dim=1, keepdim=True), chosen


def balance(lengths: list[int], scores: torch.Tensor, chosen: torch.Tensor) -> float:
    owners = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    counting = Counting(owners=owners, padding=None, lengths=torch.tensor(lengths).float())
    return float(sequence_balance(scores, chosen, counting, top_k=2, group=Alone()))


def test_the_balance_loss_equals_equations_17_to_20_by_hand():
    scores = torch.tensor([[0.5, 0.2, 0.2, 0.1], [0.4, 0.3, 0.2, 0.1], [0.1, 0.1, 0.3, 0.5]])
    chosen = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]]).bool()
    # first sequence, 2 tokens: f = (2, 2, 0, 0), P = (.45, .25, .2, .1): 2 * (.9 + .5) = 2.8
    # second, 1 token: f = (0, 0, 2, 2), P = (.1, .1, .3, .5): 1 * (.6 + 1.0) = 1.6
    assert balance([2, 1], scores, chosen) == pytest.approx(2.8 + 1.6)


def test_the_balance_loss_of_one_sequence_is_megatrons():
    scores, chosen = routed(17)
    upstream = switch_load_balancing_loss_func(scores, chosen.sum(0), 17, 2, 4, 1.0)
    assert balance([17], scores, chosen) / 17 == pytest.approx(float(upstream), rel=1e-6)


def test_a_pack_has_the_balance_loss_of_its_sequences():
    parts = [routed(n) for n in (5, 9, 2)]
    whole = balance([5, 9, 2], torch.cat([s for s, _ in parts]), torch.cat([c for _, c in parts]))
    assert whole == pytest.approx(sum(balance([len(s)], s, c) for s, c in parts), rel=1e-6)


def test_the_balance_loss_of_one_sequence_is_transformers():
    """Theirs counts a token for each of its k experts, ours as one: k times as much."""
    from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

    logits = torch.randn(23, 8, generator=torch.Generator().manual_seed(3))
    scores = logits.softmax(dim=1)
    chosen = torch.zeros_like(scores).scatter(1, scores.topk(2, dim=1).indices, 1.0).bool()
    theirs = load_balancing_loss_func((logits,), num_experts=8, top_k=2)
    assert balance([23], scores, chosen) / 23 == pytest.approx(float(theirs) / 2, rel=1e-6)


SAME = {"loss": 2e-6, "grad_norm": 1e-5, "expert_load": 1e-6}
# of all layers, where a rank has them all
OF_ROUTERS = {"bias": 1e-6, "router": 2e-5}


def assert_same(found: dict, wanted: dict, *, routers: bool = True) -> None:
    assert found["num_tokens"] == wanted["num_tokens"]
    for name, tolerance in (SAME | OF_ROUTERS if routers else SAME).items():
        assert found[name] == pytest.approx(wanted[name], rel=0, abs=tolerance), name
    assert not wanted["bias"] or max(map(abs, wanted["bias"])) > 5e-3  # it moved


@pytest.mark.slow
@pytest.mark.parametrize("family", plan.UNEVEN)
def test_training_does_not_depend_on_what_shares_a_pack(one: Results, family: str) -> None:
    assert_same(one[f"uneven_{family}_one_64"], one[f"uneven_{family}_one_256"])


@pytest.mark.slow
@pytest.mark.parametrize("family", plan.UNEVEN)
@pytest.mark.parametrize("layout", plan.UNEVEN_TWO)
def test_padding_of_a_layout_moves_no_router(one: Results, two: Results, family: str, layout: str) -> None:
    for found in two.ranks(f"uneven_{family}_{layout}"):
        assert_same(found, one[f"uneven_{family}_one_256"], routers="pp" not in layout)


@pytest.mark.slow
@pytest.mark.parametrize("family", plan.UNEVEN)
@pytest.mark.parametrize("layout", plan.IDLE_TWO)
def test_a_replica_without_sequences_moves_nothing(
    one: Results, two: Results, family: str, layout: str
) -> None:
    for found in two.ranks(f"idle_{family}_{layout}"):
        assert_same(found, one[f"uneven_{family}_one_256"])

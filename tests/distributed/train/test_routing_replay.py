import pytest

from tests.distributed.harness import replay_plan as plan
from tests.distributed.harness.ranks import Results

pytestmark = pytest.mark.slow


@pytest.fixture
def drifts(one: Results, two: Results) -> dict:
    return {"one": one["replay_one"], **{name: two[f"replay_{name}"] for name in plan.TWO}}


@pytest.mark.parametrize("layout", ["one", *plan.TWO])
def test_replayed_routes_keep_training_at_the_rollout_when_routers_are_unstable(drifts: dict, layout: str):
    assert drifts[layout]["followed"] < 1e-5
    assert drifts[layout]["own"] > 1e-2  # so the noise did flip routes


@pytest.mark.parametrize("layout", plan.TWO)
def test_the_recorded_routes_are_those_of_one_rank(drifts: dict, layout: str):
    assert drifts[layout]["rows"] == drifts["one"]["rows"]


@pytest.mark.parametrize("layout", ["one", *plan.TWO])
def test_a_rollout_after_training_on_routes_chooses_for_itself(drifts: dict, layout: str):
    assert drifts[layout]["same_again"]


def test_there_is_a_route_for_every_token_fed(one: Results):
    for key, tokens, routes in one["replay_one"]["rows"]:
        assert len(routes) == (3, 1, 7, 2)[key] + len(tokens) - 1
        assert all(len(layer) == 2 and layer[0] != layer[1] for token in routes for layer in token)


@pytest.mark.parametrize("layout", [*plan.TWO, "dealt_ep2"])
def test_updates_on_given_routes_are_those_of_one_rank(one: Results, two: Results, layout: str):
    expected, found = one["routed_one"], two[f"routed_{layout}"]
    for name in ("loss", "mtp_loss"):
        assert found[name] == pytest.approx(expected[name], abs=2e-5)
    assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-3)


@pytest.mark.parametrize("layout", plan.FOUR)
def test_updates_on_given_routes_are_those_of_one_rank_on_four(one: Results, four: Results, layout: str):
    assert four[f"routed_{layout}"]["loss"] == pytest.approx(one["routed_one"]["loss"], abs=2e-5)


def test_given_routes_change_the_update(one: Results):
    assert one["routed_one"]["loss"][0] != pytest.approx(one["unrouted_one"]["loss"][0], abs=1e-4)


@pytest.mark.parametrize("name", [f"routed_{how}" for how in plan.RECOMPUTE])
def test_recomputed_layers_follow_the_same_routes(one: Results, name: str):
    assert one[name].keys() == one["routed_one"].keys()
    for metric, values in one["routed_one"].items():
        assert one[name][metric] == pytest.approx(values, abs=1e-6), metric


def test_recomputed_layers_follow_their_own_micro_batch_in_a_pipeline(one: Results, two: Results):
    assert two["routed_full_pp2"]["loss"] == pytest.approx(one["routed_one"]["loss"], abs=2e-5)


def test_gates_learn_while_the_given_experts_are_used(one: Results):
    found = one["replay_gates"]
    assert found["used_experts"] == [6, 7]
    assert len(found["router_gradients"]) == 3
    assert min(found["router_gradients"]) > 0
    assert found["routers_moved"] == 3


def test_the_mtp_layer_routes_for_itself(one: Results):
    assert len(one["replay_gates"]["mtp_experts"]) > 2

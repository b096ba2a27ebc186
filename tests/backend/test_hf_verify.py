"""`verify` sees every trap of the mapping, and nothing where there is none."""

import pytest

from tests.backend.scenarios.hf_traps import TRAPS

RIGHT = [name for name in TRAPS if name.startswith("none")]
WRONG = [name for name in TRAPS if name not in RIGHT]


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_a_right_conversion_agrees_everywhere(hf_one, name):
    found = hf_one["traps"][name]
    assert found["first"] is None
    assert found["agreement"] == 1.0
    assert "all 4 agree" in found["text"]


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_a_trap_is_reported_with_the_first_layer_that_differs(hf_one, name):
    found = hf_one["traps"][name]
    assert found["relative"] > 0.02  # the tolerance is 0.001
    assert found["first"] in ("layer 0", "layer 1", "layer 2")
    assert f"{found['first']} is the first that differs" in found["text"]

import pytest

from tests.distributed.harness.ranks import Results


@pytest.mark.slow
def test_attention_that_heeds_no_mask_and_fp8_take_no_part_in_a_rollout(one: Results):
    found = one["foreign_attention"]
    assert found["tokens"] == found["expected"]
    assert found["restored"]

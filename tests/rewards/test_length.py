import pytest
from pydantic import ValidationError

from megatron_r1.rewards.length import Length
from tests.rewards.samples import completion


@pytest.mark.parametrize(
    ("num_tokens", "reward"), [(1, 0.0), (80, 0.0), (85, -0.25), (90, -0.5), (100, -1.0), (130, -1.0)]
)
def test_punishment_grows_over_the_cache_below_the_limit(num_tokens, reward):
    # DAPO, equation 13, with L_max = 100 and L_cache = 20: (80 - |y|) / 20
    length = Length(max_tokens=100, cache_tokens=20).build()
    assert length.score([completion("", num_tokens=num_tokens)])[0].value == reward


def test_a_cache_wider_than_the_limit_is_refused():
    with pytest.raises(ValidationError, match="cache_tokens 101 is more than max_tokens 100"):
        Length(max_tokens=100, cache_tokens=101)

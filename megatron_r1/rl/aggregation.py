"""From a loss a token to the loss of an update: the weight of each response token.

The weights carry the whole normalisation: the SUM of weight * loss over all tokens of all packs of all
ranks is the objective, so packing and layout can't change it. The denominators are therefore those of
the whole update and are passed in.

    aggregation    weight of a token of output i        objective
    sequence_mean  1 / (num_outputs * length_i)         DeepSeekMath (2402.03300), eq. 3; R1
    token_mean     1 / num_tokens                       DAPO (2503.14476), section 3.3, over the whole update
    fixed_length   1 / (num_outputs * max_length)       Dr. GRPO (2503.20783): no length bias
    sequence_sum   1 / num_outputs                      LUSPO (2602.05261): an output weighs its length
"""

from collections.abc import Sequence
from typing import Literal

Aggregation = Literal["sequence_mean", "token_mean", "fixed_length", "sequence_sum"]


def token_weights(
    lengths: Sequence[int], *, aggregation: Aggregation, num_outputs: int, num_tokens: int, max_length: int
) -> list[float]:
    """Weight of each response token of each output; the tokens of one output share it.

    lengths: response tokens of this rank's outputs; an empty output has no token and gets 0.
    num_outputs, num_tokens: outputs of the update and their response tokens, over all ranks.
    max_length: the longest response that the rollout allowed, the constant of fixed_length.
    """
    assert num_outputs >= len(lengths), f"{num_outputs=} is below this rank's {len(lengths)}"
    assert num_tokens >= sum(lengths), f"{num_tokens=} is below this rank's {sum(lengths)}"
    if aggregation == "sequence_mean":
        return [1 / (num_outputs * length) if length else 0.0 for length in lengths]
    denominators = {
        "token_mean": num_tokens,
        "fixed_length": num_outputs * max_length,
        "sequence_sum": num_outputs,
    }
    denominator = denominators[aggregation]
    return [1 / denominator if length else 0.0 for length in lengths]

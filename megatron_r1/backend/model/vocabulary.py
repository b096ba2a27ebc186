"""Vocabulary padding, for sizes that the tensor ranks don't divide.

The padding belongs to the layout, not to the model: checkpoints load into other layouts, and an export cuts
it off. Its logits are set so low that their probability is 0; a row of zeros would have logit 0 and take
probability from every token.
"""

from typing import Any

from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_model import GPTModel

PADDING_LOGIT = -1e9  # finite: 0 * infinity in the entropy would be NaN


def padded_rows(vocab_size: int, tensor: int) -> int:
    """Rows of the embedding in this layout."""
    return -(-vocab_size // tensor) * tensor


def mask_padding(model: GPTModel, vocab_size: int) -> None:
    """Set the padding's logits to PADDING_LOGIT, in this rank's columns or in the gathered ones."""
    rows = model.vocab_size // parallel_state.get_tensor_model_parallel_world_size()
    real = max(0, vocab_size - rows * parallel_state.get_tensor_model_parallel_rank())
    model.real_rows = min(real, rows)  # type: ignore[assignment]  # for code that projects without the module
    if not model.post_process or model.vocab_size == vocab_size:
        return

    def lower(module: Any, inputs: Any, output: tuple[Any, Any]) -> tuple[Any, Any]:
        logits, bias = output  # [T, 1, V / tp], or [T, 1, V] in ModuleDecoder
        first = vocab_size if logits.shape[-1] > rows else real
        if first < logits.shape[-1]:  # an empty slice would make the backward pass copy the gradient
            logits[..., first:] = PADDING_LOGIT
        return logits, bias

    model.output_layer.register_forward_hook(lower)

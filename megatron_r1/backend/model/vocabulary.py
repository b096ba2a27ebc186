"""Vocabularies that the tensor ranks don't divide: rows of padding that no token uses and none is given.

The padding belongs to the layout, not to the model: a checkpoint of one layout is read by any other, and an
export cuts it off. Its logits are so low that neither a softmax nor a sampler ever sees them; left alone, a
row of zeros has logit 0 and takes probability from every token.
"""

from typing import Any

from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_model import GPTModel

PADDING_LOGIT = -1e9  # finite: 0 x infinity is no number, and the entropy has such a product


def padded_rows(vocab_size: int, tensor: int) -> int:
    """Rows of the embedding in this layout."""
    return -(-vocab_size // tensor) * tensor


def mask_padding(model: GPTModel, vocab_size: int) -> None:
    """Lower the logits of the padding, in this rank's columns or in all ranks' gathered ones."""
    rows = model.vocab_size // parallel_state.get_tensor_model_parallel_world_size()
    real = max(0, vocab_size - rows * parallel_state.get_tensor_model_parallel_rank())
    model.real_rows = min(real, rows)  # type: ignore[assignment]  # for who projects without the module
    if not model.post_process or model.vocab_size == vocab_size:
        return

    def lower(module: Any, inputs: Any, output: tuple[Any, Any]) -> tuple[Any, Any]:
        logits, bias = output  # [T, 1, V / tp], gathered for who decodes through the modules
        first = vocab_size if logits.shape[-1] > rows else real
        if first < logits.shape[-1]:  # or the backward pass would copy the gradient for nothing
            logits[..., first:] = PADDING_LOGIT
        return logits, bias

    model.output_layer.register_forward_hook(lower)

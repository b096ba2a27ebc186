"""Logits and hidden states of every layer, in any layout, as whole tensors on every rank.

Hooks on the modules that training runs catch them, so a comparison with another implementation tests the code
that trains, not a second forward pass.
"""

# S tokens, V vocabulary without padding, h hidden

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from megatron.core import parallel_state
from torch import Tensor

from megatron_r1.backend.parallel.collectives import gather
from megatron_r1.backend.policy import MegatronPolicy
from megatron_r1.huggingface.reference import EMBEDDING, LOGITS, layer_name
from megatron_r1.types import TrainSequence


@dataclass(slots=True)
class Trace:
    """Of one sequence: logits [S, V], and the states after the embedding and after each layer [S, h]."""

    states: dict[str, Tensor] = field(default_factory=dict)

    @property
    def logits(self) -> Tensor:
        return self.states[LOGITS]


def traces(policy: MegatronPolicy, prompts: Sequence[Sequence[int]], *, states: bool = False) -> list[Trace]:
    """One trace for each prompt, on every rank; states: of the layers too. A collective call."""
    assert policy.layout.context == 1, "a context rank holds only a part of the positions"
    return [_trace(policy, prompt, states=states) for prompt in prompts]


def _trace(policy: MegatronPolicy, prompt: Sequence[int], *, states: bool) -> Trace:
    found: dict[str, Tensor] = {}
    # the model doesn't read a sequence's last token: append one, so that it reads all of the prompt
    tokens = torch.tensor([*prompt, 0])
    with _caught(policy, found, states=states):
        policy.logprobs([TrainSequence(tokens, torch.ones(len(tokens)))])
    size, rows = len(prompt), policy.family.shape().vocab_size
    mine = {name: _whole(name, value)[:size, 0].float().cpu() for name, value in found.items()}
    if LOGITS in mine:
        mine[LOGITS] = mine[LOGITS][:, :rows]
    return Trace({name: value for part in gather(mine) for name, value in part.items()})


def _whole(name: str, value: Tensor) -> Tensor:
    """Gather [S / tp, 1, h] of sequence parallel ranks, or [S, 1, V / tp]."""
    group = parallel_state.get_tensor_model_parallel_group()
    size = group.size()
    if size == 1:
        return value
    shards = [torch.empty_like(value) for _ in range(size)]
    torch.distributed.all_gather(shards, value.contiguous(), group=group)
    return torch.cat(shards, dim=-1 if name == LOGITS else 0)


@contextmanager
def _caught(policy: MegatronPolicy, found: dict[str, Tensor], *, states: bool) -> Iterator[None]:
    """Within: outputs of the hooked modules are stored in `found`."""
    with ExitStack() as stack:
        for name, module in _modules(policy, states=states):
            handle = module.register_forward_hook(_keep(found, name))
            stack.callback(handle.remove)
        yield


def _modules(policy: MegatronPolicy, *, states: bool) -> Iterator[tuple[str, Any]]:
    for chunk in policy.chunks:
        if chunk.post_process:
            yield LOGITS, chunk.output_layer
        if not states:
            continue
        if chunk.pre_process:
            yield EMBEDDING, chunk.embedding
        for layer in chunk.decoder.layers:
            yield layer_name(layer.layer_number - 1), layer


def _keep(found: dict[str, Tensor], name: str) -> Callable[[Any, Any, Any], None]:
    def hook(module: Any, inputs: Any, output: Any) -> None:
        found[name] = (output[0] if isinstance(output, tuple) else output).detach().clone()

    return hook

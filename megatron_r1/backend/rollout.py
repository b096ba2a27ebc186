"""Sampling on the live weights, in the training layout.

The outputs of a call run in a batch of bounded size (flight.py); LeanDecoder computes it where it knows the
model, ModuleDecoder everywhere else, or Megatron's dynamic engine does all of it, also through NeMo.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Literal

import torch
from megatron.core.inference.utils import InferenceMode
from megatron.core.models.gpt.gpt_model import GPTModel

from megatron_r1.backend.decode import LeanDecoder, is_lean
from megatron_r1.backend.decode_graphs import GraphedDecoder
from megatron_r1.backend.decode_modules import ModuleDecoder
from megatron_r1.backend.decode_mtp import DraftingDecoder
from megatron_r1.backend.engine_sampling import engine_can_sample
from megatron_r1.backend.flight import Decoder, Flight
from megatron_r1.backend.layout import ENGINES_OF_MEGATRON, Layout, graph_problems
from megatron_r1.backend.rollout_precision import RolloutPrecision
from megatron_r1.errors import ConfigError
from megatron_r1.types import Begun, OnEnd, Sampled, Sampling

Engine = Literal["megatron", "modules", "dynamic", "nemo"]
Speculation = Literal["mtp"]

# Attributes by which Megatron's modules know of sequence parallelism (transformer/utils.py lists them too).
SEQUENCE_PARALLEL = ("sequence_parallel", "scatter_to_sequence_parallel", "reduce_scatter_embeddings")


@contextmanager
def inference(chunks: Sequence[GPTModel]) -> Iterator[None]:
    """The model in inference mode, without sequence parallelism. Restored whatever happens."""
    config = chunks[0].config
    sequence_parallel = config.sequence_parallel
    switched = [
        (module, name)
        for chunk in chunks
        for module in chunk.modules()
        for name in SEQUENCE_PARALLEL
        if sequence_parallel and module.__dict__.get(name) is True
    ]
    training = [chunk.training for chunk in chunks]
    config.sequence_parallel = False
    for module, name in switched:
        setattr(module, name, False)
    try:
        for chunk in chunks:
            chunk.eval()
        # not torch.inference_mode: RoPE tables cached in there could never be used in training again
        with engine_can_sample(chunks), InferenceMode.active(), torch.no_grad():
            yield
    finally:
        config.sequence_parallel = sequence_parallel
        for module, name in switched:
            setattr(module, name, True)
        for chunk, was_training in zip(chunks, training, strict=True):
            chunk.train(was_training)


def require_speculation(chunks: Sequence[GPTModel], engine: Engine) -> None:
    """Raises ConfigError where this model can't draft, or where this engine samples from it."""
    key = "rollout_speculation: mtp"
    if not chunks[0].config.mtp_num_layers:
        raise ConfigError(
            f"{key}: the model has no MTP layer to draft with; set mtp_layers: 1 or leave it out"
        )
    if engine != "megatron":
        raise ConfigError(f"{key}: rollout_engine {engine} checks no drafts; use megatron or leave it out")
    if not is_lean(chunks):
        raise ConfigError(
            f"{key}: with what model.megatron sets, the model samples through Megatron's modules, which "
            "check no drafts; leave one of the two out"
        )


def require_cuda_graphs(
    chunks: Sequence[GPTModel], engine: Engine, layout: Layout, *, speculation: Speculation | None
) -> None:
    """Raises ConfigError where no graph can hold a decoding step."""
    for text in graph_problems(engine, layout, speculation=speculation):
        raise ConfigError(text)
    if not is_lean(chunks):
        raise ConfigError(
            "rollout_cuda_graphs: with what model.megatron sets, the model samples through Megatron's "
            "modules; leave one of the two out"
        )


def generate(
    chunks: Sequence[GPTModel],
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    keys: Sequence[int],
    eos_id: int,
    engine: Engine = "megatron",
    rows: int | None = None,
    speculation: Speculation | None = None,
    precision: RolloutPrecision | None = None,
    cuda_graphs: bool = False,
    decoder: type[Decoder] | None = None,
    begun: Sequence[Begun] | None = None,
    on_end: OnEnd | None = None,
) -> list[Sampled]:
    """One output a prompt; all ranks of a replica return the same.

    rows: the most outputs that run at once, None for all. speculation: by the layer of that name, for what
    `require_speculation` lets through. precision: of the products, for what rollout_precision.require lets
    through; None: as the weights are stored. cuda_graphs: for what `require_cuda_graphs` lets through.
    decoder: instead of the fitting one. begun, on_end: as of Policy.generate, for the engines of our own.
    """
    with inference(chunks):
        lean = engine == "megatron" and is_lean(chunks)
        assert precision is None or (lean and decoder is None), "the others know no FP8"
        assert not (cuda_graphs and sampling.keep_routes), "a graph notes no routes"
        assert begun is None or engine not in ENGINES_OF_MEGATRON, "they begin every output anew"
        if engine == "dynamic":
            from megatron_r1.backend import dynamic_engine  # it imports a second of Megatron's servers

            return dynamic_engine.generate(chunks, prompts, sampling, keys=keys, eos_id=eos_id, rows=rows)
        if engine == "nemo":
            from megatron_r1.backend import nemo_engine  # and this NeMo, where it is installed

            return nemo_engine.generate(chunks, prompts, sampling, keys=keys, eos_id=eos_id, rows=rows)
        one_by_one = GraphedDecoder if cuda_graphs else LeanDecoder
        own = partial(DraftingDecoder if speculation == "mtp" else one_by_one, precision=precision)
        chosen: Callable[..., Decoder] = decoder or (own if lean else ModuleDecoder)
        flight = Flight(
            chosen,
            chunks,
            prompts,
            sampling,
            keys=keys,
            eos_id=eos_id,
            rows=rows,
            begun=begun,
            on_end=on_end,
        )
        return flight.run()

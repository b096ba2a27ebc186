"""Rollout engines over the live weights: `generate` samples one completion for each prompt.

The built-in engine is a batch scheduler (batch_scheduler.py) over LeanDecoder, or over ModuleDecoder where
the model needs Megatron's modules. The others are Megatron's dynamic engine, alone or through NeMo.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from megatron.core.inference.utils import InferenceMode
from megatron.core.models.gpt.gpt_model import GPTModel

from megatron_r1.backend.rollout import fp8 as rollout_precision
from megatron_r1.backend.rollout.batch_scheduler import BatchScheduler, Decoder
from megatron_r1.backend.rollout.decoder.cuda_graphs import GraphedDecoder
from megatron_r1.backend.rollout.decoder.decoder import LeanDecoder, is_lean
from megatron_r1.backend.rollout.decoder.module_decoder import ModuleDecoder
from megatron_r1.backend.rollout.decoder.speculative import DraftingDecoder
from megatron_r1.backend.rollout.fp8 import RolloutPrecision
from megatron_r1.backend.rollout.te_sampling import engine_can_sample
from megatron_r1.config.layout import Layout
from megatron_r1.config.rollout import FEATURES, Engine, conflicts, features, layout_features
from megatron_r1.errors import ConfigError
from megatron_r1.models.shape import FamilyConfig
from megatron_r1.types import Begun, OnEnd, Sampled, Sampling

Speculation = Literal["mtp"]

# Attributes that turn on sequence parallelism in Megatron's modules (transformer/utils.py lists them too).
SEQUENCE_PARALLEL = ("sequence_parallel", "scatter_to_sequence_parallel", "reduce_scatter_embeddings")


@contextmanager
def inference(chunks: Sequence[GPTModel]) -> Iterator[None]:
    """Within: the model in inference mode, without sequence parallelism. Restored after errors too."""
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
        # not torch.inference_mode: training can't use RoPE tables that were cached in it
        with engine_can_sample(chunks), InferenceMode.active(), torch.no_grad():
            yield
    finally:
        config.sequence_parallel = sequence_parallel
        for module, name in switched:
            setattr(module, name, True)
        for chunk, was_training in zip(chunks, training, strict=True):
            chunk.train(was_training)


@dataclass(slots=True)
class RolloutOptions:
    """How a policy samples; may be changed between two rollouts.

    rows: the most sequences that a data-parallel rank decodes at once; None: all. speculation: how tokens are
    drafted; None: not at all. precision: of the matrix products; None: the weights as they are stored.
    cuda_graphs: a decoding step is one launch (backend/rollout/decoder/cuda_graphs.py).
    """

    engine: Engine = "megatron"
    rows: int | None = None
    speculation: Speculation | None = None
    precision: RolloutPrecision | None = None
    cuda_graphs: bool = False


def require(
    options: RolloutOptions, family: FamilyConfig, layout: Layout, chunks: Sequence[GPTModel]
) -> None:
    """Raises ConfigError where the engine, this model or this layout doesn't support an option."""
    lean, speculation, precision = is_lean(chunks), options.speculation, options.precision
    asked = features(speculation=speculation, precision=precision, cuda_graphs=options.cuda_graphs)
    found = list(conflicts(options.engine, asked, layout_features(layout)))
    if speculation is not None:
        if not chunks[0].config.mtp_num_layers:
            found.append("rollout.speculation: mtp: the model has no MTP layer to draft with; leave it out")
        if not lean:
            found.append(_not_lean("rollout.speculation: mtp", "check no drafts"))
    if precision is not None:
        found += [*rollout_precision.problems(family, layout), *rollout_precision.missing()]
        if not lean:
            found.append(_not_lean(rollout_precision.KEY, "multiply by the weights as they are"))
    if options.cuda_graphs and not lean:
        found.append(_not_lean("rollout.cuda_graphs", "launch their operators one by one"))
    if found:
        raise ConfigError(found[0])


def _not_lean(key: str, behind: str) -> str:
    return (
        f"{key}: with what model.megatron sets, the model samples through Megatron's modules, which "
        f"{behind}; leave one of the two out"
    )


def generate(
    chunks: Sequence[GPTModel],
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    keys: Sequence[int],
    eos_ids: Sequence[int],
    options: RolloutOptions | None = None,
    decoder: type[Decoder] | None = None,
    begun: Sequence[Begun] | None = None,
    on_end: OnEnd | None = None,
) -> list[Sampled]:
    """One completion for each prompt; all ranks of a data-parallel rank return the same.

    eos_ids: each of them ends a completion. options: must pass `require`. decoder: overrides the choice.
    begun, on_end: as in Policy.generate, for the built-in engines only.
    """
    with inference(chunks):
        options = options or RolloutOptions()
        engine, rows = options.engine, options.rows
        lean = engine == "megatron" and is_lean(chunks)
        assert options.precision is None or (lean and decoder is None), "only LeanDecoder has FP8"
        assert not (options.cuda_graphs and sampling.keep_routes), "CUDA graphs record no routes"
        unable = FEATURES["max_off_policy_steps"].engines
        assert begun is None or engine not in unable, unable[engine]
        if engine == "dynamic":
            from megatron_r1.backend.rollout import dynamic_engine

            return dynamic_engine.generate(chunks, prompts, sampling, keys=keys, eos_ids=eos_ids, rows=rows)
        if engine == "nemo":
            from megatron_r1.backend.rollout import nemo_engine

            return nemo_engine.generate(chunks, prompts, sampling, keys=keys, eos_ids=eos_ids, rows=rows)
        steps = GraphedDecoder if options.cuda_graphs else LeanDecoder
        own = partial(DraftingDecoder if options.speculation else steps, precision=options.precision)
        chosen: Callable[..., Decoder] = decoder or (own if lean else ModuleDecoder)
        scheduler = BatchScheduler(
            chosen,
            chunks,
            prompts,
            sampling,
            keys=keys,
            eos_ids=eos_ids,
            rows=rows,
            begun=begun,
            on_end=on_end,
        )
        return scheduler.run()

"""Rollouts by NeMo's `generate` (nemo-toolkit 2.7, nemo.collections.llm.inference) on the live model.

NeMo builds megatron.core's StaticInferenceEngine at every call, which runs Megatron's dynamic engine: what
dynamic_engine.py says of attention, MLA and draws holds here. NeMo has no argument for the cache size (40 GiB
for any model) or for the sampler, so it is made to build our subclass of the engine.

NeMo needs an environment of its own (`make nemo`); this module is imported only when the engine is `nemo`.
"""

# megatron-core 0.19.2 and nemo-toolkit 2.7.3: all code that depends on their internals for NeMo is here

import importlib
import sys
import types
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from megatron.core.inference.common_inference_params import CommonInferenceParams
from megatron.core.inference.contexts.static_context import StaticInferenceContext
from megatron.core.inference.engines.mcore_engine import MCoreEngine
from megatron.core.inference.model_inference_wrappers.gpt.gpt_inference_wrapper import GPTInferenceWrapper
from megatron.core.inference.text_generation_controllers.text_generation_controller import (
    TextGenerationController,
)
from megatron.core.models.gpt.gpt_model import GPTModel

from megatron_r1.backend.rollout.dynamic_engine import (
    MAX_REQUESTS,
    KeyedSampling,
    NoTokenizer,
    attention_without_flash,
    cache_gib,
    places,
)
from megatron_r1.config.rollout import NEMO_REMEDY, missing
from megatron_r1.errors import ConfigError
from megatron_r1.types import Sampled, Sampling

PAGE_TOKENS = 256  # the static engine's page size (static_engine.py:104)
REMOVED = "megatron.core.inference.model_inference_wrappers.inference_wrapper_config"


def generate(
    chunks: Sequence[GPTModel],
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    keys: Sequence[int],
    eos_ids: Sequence[int],
    rows: int | None,
) -> list[Sampled]:
    """engine.generate by NeMo; the caller has put the model into inference mode."""
    (model,) = chunks
    assert not sampling.keep_routes, "the engine keeps no routes"
    if not prompts:  # a data-parallel rank without prompts; no other rank waits for it
        return []
    nemo = _inference()
    rows = places(model, prompts, rows or MAX_REQUESTS)
    length = max(map(len, prompts)) + sampling.max_new_tokens
    drawn = KeyedSampling(keys, sampling, eos_ids)
    gib = cache_gib(model, rows=rows, length=length, page=PAGE_TOKENS)
    context = StaticInferenceContext(max_batch_size=rows, max_sequence_length=length)
    with attention_without_flash(model), _built_by(nemo, drawn, gib):
        nemo.generate(
            GPTInferenceWrapper(model, context),
            NoTokenizer(),
            [list(prompt) for prompt in prompts],  # the engine takes token ids as well as text
            max_batch_size=rows,
            inference_params=CommonInferenceParams(
                num_tokens_to_generate=sampling.max_new_tokens, termination_id=drawn.termination_id
            ),
        )
    return drawn.results()


@contextmanager
def _built_by(nemo: Any, drawn: KeyedSampling, gib: float) -> Iterator[None]:
    """Within: NeMo builds `_Engine` with this cache size and sampler."""

    def build(**options: Any) -> _Engine:
        return _Engine(**options, drawn=drawn, gib=gib)

    nemo.MCoreEngine = build
    try:
        yield
    finally:
        nemo.MCoreEngine = MCoreEngine


class _Engine(MCoreEngine):
    """NeMo's engine with a cache of the right size and keyed sampling."""

    def __init__(
        self,
        text_generation_controller: TextGenerationController,
        max_batch_size: int,
        random_seed: int | None,
        *,
        drawn: KeyedSampling,
        gib: float,
    ) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # says that the dynamic engine does the work
            # it would fall back to an engine that doesn't use our sampler
            warnings.filterwarnings("error", message="Error initializing dynamic engine")
            super().__init__(
                text_generation_controller,
                max_batch_size,
                random_seed,
                buffer_size_gb=gib,  # type: ignore[arg-type]
            )
        text_generation_controller._sampling = drawn

    def generate(self, **options: Any) -> list[Any]:
        found = super().generate(**options)
        refused = self.dynamic_engine.failed_request_ids
        assert not refused, f"the engine refused requests {refused}"
        return found


def _inference() -> Any:
    """NeMo's module `nemo.collections.llm.inference.base`; ConfigError where it can't be imported.

    NeMo's models import InferenceWrapperConfig, which megatron-core has dropped. A placeholder makes the
    import work; it raises if NeMo ever builds one.
    """
    for text in missing("nemo"):
        raise ConfigError(text)
    name = "nemo.collections.llm.inference.base"
    if name not in sys.modules:
        removed: Any = types.ModuleType(REMOVED)
        removed.InferenceWrapperConfig = _RemovedConfig
        sys.modules[REMOVED] = removed
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(
                f"rollout.engine: nemo: `import {name}` fails: {error}; {NEMO_REMEDY}"
            ) from error
        finally:
            del sys.modules[REMOVED]
    return sys.modules[name]


class _RemovedConfig:
    def __init__(self, *values: Any, **options: Any) -> None:
        raise AssertionError("megatron-core 0.19.2 has no InferenceWrapperConfig")

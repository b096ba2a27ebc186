"""Rollouts by Megatron's DynamicInferenceEngine: continuous batching with a paged KV cache.

The engine schedules and runs the live model; our keyed sampler replaces its own, so the tokens are those of
the built-in engine. An engine lives for one call, so it can't serve stale weights.

megatron-core 0.19.2's engine supports GQA only: for MLA it needs other layers than those that train. Its
attention is flash-attn's; where that is not installed, it is replaced by torch's SDPA over the same pages.
"""

# R running requests, V vocabulary, n query heads, g key heads, d width of a head, P tokens a page

import itertools
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import megatron.core.inference.contexts.dynamic_context as dynamic_context
import megatron.core.transformer.attention as megatron_attention
import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.inference.config import InferenceConfig
from megatron.core.inference.contexts.dynamic_context import DynamicInferenceContext
from megatron.core.inference.engines.dynamic_engine import DynamicInferenceEngine
from megatron.core.inference.model_inference_wrappers.gpt.gpt_inference_wrapper import GPTInferenceWrapper
from megatron.core.inference.sampling.base import Sampling as EngineSampling
from megatron.core.inference.sampling_params import SamplingParams
from megatron.core.inference.text_generation_controllers.text_generation_controller import (
    TextGenerationController,
)
from megatron.core.models.gpt.gpt_model import GPTModel
from torch import Tensor

from megatron_r1.backend.model.top_p_mask import TopPMaskRecorder
from megatron_r1.backend.parallel.process_groups import device
from megatron_r1.backend.rollout.sampling import next_tokens, uniforms
from megatron_r1.types import Sampled, Sampling, SamplingTrace

PAGE_TOKENS = 32
PAGE_TOKENS_FLASH = 256  # flash-attn's pages
FREE_SHARE = 0.5  # of a GPU's free memory for the cache
MAX_REQUESTS = 1024  # running at once
GIB = 1024**3


def generate(
    chunks: Sequence[GPTModel],
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    keys: Sequence[int],
    eos_ids: Sequence[int],
    rows: int | None,
) -> list[Sampled]:
    """engine.generate by Megatron's engine; the caller has put the model into inference mode."""
    (model,) = chunks
    assert not sampling.keep_routes, "the engine keeps no routes"
    drawn = KeyedSampling(keys, sampling, eos_ids)
    with attention_without_flash(model):
        some = prompts or [[drawn.termination_id]]
        engine = _engine(model, some, sampling, drawn, rows=rows or MAX_REQUESTS)
        params = SamplingParams(
            num_tokens_to_generate=sampling.max_new_tokens, termination_id=drawn.termination_id
        )
        for request, prompt in enumerate(prompts):
            engine.add_request(request, list(prompt), params)
        while _any_rank_waits(engine):
            if engine.has_unfinished_requests():
                engine.step_modern()
            else:  # other ranks of the expert-parallel group still run: take part in their collectives
                engine.controller.dummy_forward()
    assert not engine.failed_request_ids, f"the engine refused requests {engine.failed_request_ids}"
    return drawn.results()


def _any_rank_waits(engine: DynamicInferenceEngine) -> bool:
    waits = engine.has_unfinished_requests()
    if parallel_state.get_expert_model_parallel_world_size() == 1:
        return waits
    box = torch.tensor([int(waits)], device=device())
    group = parallel_state.get_expert_tensor_and_model_parallel_group()
    dist.all_reduce(box, op=dist.ReduceOp.MAX, group=group)
    return bool(box)


def _engine(
    model: GPTModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    drawn: "KeyedSampling",
    *,
    rows: int,
) -> DynamicInferenceEngine:
    """rows: the most requests at once."""
    longest = max(map(len, prompts))
    length = longest + sampling.max_new_tokens
    rows = places(model, prompts, rows)
    page = PAGE_TOKENS_FLASH if _has_flash() else PAGE_TOKENS
    config = InferenceConfig(
        max_sequence_length=length,
        buffer_size_gb=cache_gib(model, rows=rows, length=length, page=page),  # type: ignore[arg-type]
        block_size_tokens=page,
        max_requests=rows,
        max_tokens=max(2048, longest, rows),
        materialize_only_last_token_logits=True,
    )
    context = DynamicInferenceContext(model_config=model.config, inference_config=config)
    controller = TextGenerationController(GPTInferenceWrapper(model, context), NoTokenizer())
    controller._sampling = drawn
    return DynamicInferenceEngine(controller, context)


def places(model: GPTModel, prompts: Sequence[Sequence[int]], rows: int) -> int:
    """The most requests at once: `rows` or fewer prompts, rounded up to what the engine takes."""
    tensor = model.config.tensor_model_parallel_size
    return -(-min(len(prompts), rows) // tensor) * tensor


def cache_gib(model: GPTModel, *, rows: int, length: int, page: int) -> float:
    """The cache of all requests at their full length; on a GPU at most FREE_SHARE of the free memory."""
    config = model.config
    heads = max(1, config.num_query_groups // config.tensor_model_parallel_size)
    layers = len(model.decoder.layers)
    width = torch.finfo(config.params_dtype).bits // 8
    token = 2 * layers * heads * config.kv_channels * width  # bytes
    pages = rows * -(-length // page) + 2
    wanted = pages * page * token / GIB
    if device().type == "cpu":
        return wanted
    return min(wanted, FREE_SHARE * torch.cuda.mem_get_info()[0] / GIB)


class NoTokenizer:
    """Stands in for the engine's tokenizer: prompts and completions are token ids."""

    def detokenize(self, tokens: Sequence[int], **options: Any) -> str:
        return ""


class KeyedSampling(EngineSampling):
    """Keyed sampling in the place of the engine's sampler; records tokens and log-probs.

    The engine knows one id that ends a request, termination_id: it gets that one for each of eos_ids.
    """

    def __init__(self, keys: Sequence[int], sampling: Sampling, eos_ids: Sequence[int]) -> None:
        self.keys, self.sampling = list(keys), sampling
        self.termination_id, *self.other_ends = eos_ids
        self.tokens: list[list[int]] = [[] for _ in keys]
        self.logprobs: list[list[float]] = [[] for _ in keys]
        truncated = sampling.keep_nucleus and sampling.top_p < 1
        self.nuclei = TopPMaskRecorder(len(self.keys)) if truncated else None

    def sample_kernel(
        self,
        logits: Tensor,
        n: int,
        context: Any,
        *,
        gather_indices: Tensor | None = None,
        output: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """logits: [>= n, V]. Returns [n] tokens, in the engine's order of requests."""
        rows = logits[:n] if gather_indices is None else logits[gather_indices[:n]]
        requests = context.request_ids[context.paused_request_count : context.total_request_count].tolist()
        assert len(requests) == n, f"{len(requests)} requests for {n} rows"
        nuclei = self.nuclei
        tokens, logprobs = next_tokens(
            rows.float(),
            uniforms(
                [self.keys[request] for request in requests],
                position=[len(self.tokens[request]) for request in requests],
                seed=self.sampling.seed,
            ).to(rows.device),
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            note=None if nuclei is None else lambda allowed: nuclei.note(requests, allowed),
        )
        for request, token, logprob in zip(requests, tokens.tolist(), logprobs.tolist(), strict=True):
            self.tokens[request].append(token)
            self.logprobs[request].append(logprob)
        for end in self.other_ends:
            tokens = tokens.where(tokens != end, self.termination_id)
        return tokens if output is None else output.copy_(tokens)

    def log_probs_kernel(self, logits: Tensor, context: Any, **options: Any) -> Tensor:
        raise AssertionError("log-probs are recorded as the tokens are drawn")

    def results(self) -> list[Sampled]:
        nuclei = itertools.repeat(None)
        if self.nuclei is not None:
            nuclei = self.nuclei.of_rows([len(tokens) for tokens in self.tokens])
        return [
            Sampled(tokens, logprobs, SamplingTrace(nucleus=nucleus))
            for tokens, logprobs, nucleus in zip(self.tokens, self.logprobs, nuclei, strict=False)
        ]


def _has_flash() -> bool:
    return torch.cuda.is_available() and (
        megatron_attention.HAVE_FA4
        or megatron_attention.HAVE_FA3
        or megatron_attention.is_fa_min_version("2.7.3")
    )


@contextmanager
def attention_without_flash(model: GPTModel) -> Iterator[None]:
    """Within: SDPA replaces flash-attn where it is missing, and the CPU uses no Triton kernel.

    Restored after errors too."""
    if _has_flash():
        yield
        return
    # megatron-core's attention.py:1329 asserts on the version; dynamic_context.py:1612 uses a Triton kernel
    # if there is one
    version: Callable[..., bool] = megatron_attention.is_fa_min_version
    append = dynamic_context.triton_append_key_value_cache
    attentions: list[Any] = [layer.self_attention for layer in model.decoder.layers]
    megatron_attention.is_fa_min_version = lambda *wanted, **options: True
    if device().type == "cpu":
        dynamic_context.triton_append_key_value_cache = None
    for attention in attentions:
        attention.flash_decode_and_prefill = types.MethodType(_paged_attention, attention)
    try:
        yield
    finally:
        megatron_attention.is_fa_min_version = version
        dynamic_context.triton_append_key_value_cache = append
        for attention in attentions:
            del attention.flash_decode_and_prefill


def _paged_attention(
    self: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    max_query: int,
    max_key: int,
    query_offsets: Tensor,
    key_offsets: Tensor,
    key_lengths: Tensor,
    pages: Tensor,
    is_decode_only: bool,
    softmax_offset: Tensor | None = None,
) -> Tensor:
    """query: [T, 1, n, d]; key, value: [pages in all, P, g, d]; pages: [R, most pages]. Returns [T, 1, n, d].

    The queries of request i are query_offsets[i] .. query_offsets[i + 1], the last of its key_lengths[i]
    tokens.
    """
    out = torch.zeros_like(query)
    if is_decode_only:
        count = len(key_lengths)
        keys, values = (_rows(cache, pages, key_lengths) for cache in (key, value))  # [R, g, S, d]
        seen = torch.arange(keys.shape[2], device=keys.device) < key_lengths[:, None]
        found = _attend(query[:count].transpose(1, 2), keys, values, seen[:, None, None])
        out[:count] = found.transpose(1, 2).nan_to_num(0.0)  # a slot without a request has a NaN softmax
        return out
    offsets = query_offsets.tolist()
    for i, (start, end) in enumerate(itertools.pairwise(offsets)):
        if start == end:
            continue
        length = key_lengths[i : i + 1]
        keys, values = (_rows(cache, pages[i : i + 1], length) for cache in (key, value))
        seen = torch.ones(end - start, keys.shape[2], dtype=torch.bool, device=keys.device)
        seen = seen.tril(keys.shape[2] - (end - start))
        found = _attend(query[start:end].permute(1, 2, 0, 3), keys, values, seen)
        out[start:end] = found.permute(2, 0, 1, 3)
    return out


def _rows(cache: Tensor, pages: Tensor, lengths: Tensor) -> Tensor:
    """[R, g, S, d], S tokens of the longest request, out of [pages in all, P, g, d]; 0 beyond a request's
    end.

    Unwritten memory may hold NaN, which a mask doesn't remove from a product.
    """
    longest = int(lengths.max())
    used = pages[: len(lengths), : -(-longest // cache.shape[1])].clamp(min=0).long()
    behind = torch.arange(longest, device=cache.device) >= lengths[:, None]  # [R, S]
    found = cache[used].flatten(1, 2)[:, :longest].masked_fill(behind[:, :, None, None], 0.0)
    return found.transpose(1, 2)


def _attend(query: Tensor, key: Tensor, value: Tensor, seen: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask=seen, enable_gqa=True)

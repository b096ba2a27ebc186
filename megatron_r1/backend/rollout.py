"""Sampling on the live weights: Megatron's modules and StaticInferenceContext, in the training layout.

Prompts are left-padded to one length (RoPE is relative, so a shift changes nothing), every step feeds one
token a row, finished rows leave the batch. EOS is kept. Ranks that share experts stay in step until the
slowest is done: a rank without rows left feeds one dummy row, or the others would wait for it for ever.
"""

# B rows still running, P padded prompt length, V vocabulary

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.inference.contexts import StaticInferenceContext
from megatron.core.inference.utils import InferenceMode
from megatron.core.models.gpt.gpt_model import GPTModel
from torch import Tensor

from megatron_r1.backend.nucleus import NucleusRecorder
from megatron_r1.backend.parallel import device
from megatron_r1.backend.routes import RouteRecorder
from megatron_r1.backend.sampling import next_tokens, uniforms
from megatron_r1.types import Sampled, Sampling

DROP_SHARE = 8  # rows leave when a share of 1 / DROP_SHARE of the batch has finished: a copy of the cache
PAD_TOKEN = 0


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
        with InferenceMode.active(), torch.no_grad():
            yield
    finally:
        config.sequence_parallel = sequence_parallel
        for module, name in switched:
            setattr(module, name, True)
        for chunk, was_training in zip(chunks, training, strict=True):
            chunk.train(was_training)


def generate(
    chunks: Sequence[GPTModel],
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    keys: Sequence[int],
    eos_id: int,
) -> list[Sampled]:
    """One output a prompt; all ranks of a replica return the same."""
    results = [Sampled([], []) for _ in prompts]
    with inference(chunks):
        run = _Batch(chunks, prompts or [[eos_id]], sampling, list(keys) or [0], eos_id)
        if not prompts:  # this rank only keeps the others company
            run.finished[:] = True
        for step in range(sampling.max_new_tokens):
            logits = run.feed()
            tokens, logprobs = run.sample(logits, position=step)
            for row, token, logprob in zip(run.owners, tokens.tolist(), logprobs.tolist(), strict=True):
                if not run.finished_of[row] and prompts:
                    results[row].token_ids.append(token)
                    results[row].logprobs.append(logprob)
            run.advance(tokens)
            if run.all_done():
                break
        return run.with_kept(results, prompts)


class _Batch:
    """The rows in flight: their cache, their mask and who they belong to."""

    def __init__(
        self,
        chunks: Sequence[GPTModel],
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        keys: list[int],
        eos_id: int,
    ) -> None:
        assert len(chunks) == 1, "virtual pipeline stages sample through their first layout only"
        self.model = chunks[0]
        self.sampling, self.eos_id = sampling, eos_id
        self.keys, self.owners = keys, list(range(len(prompts)))
        self.finished_of = [False] * len(prompts)
        self.finished = torch.zeros(len(prompts), dtype=torch.bool)
        width = max(len(prompt) for prompt in prompts)
        length = width + sampling.max_new_tokens
        self.context = StaticInferenceContext(len(prompts), length)
        rows = [[PAD_TOKEN] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        self.tokens = torch.tensor(rows, device=device())  # [B, tokens to feed]
        starts = torch.tensor([width - len(prompt) for prompt in prompts], device=device())
        self.width = width
        count = len(prompts)
        self.routes = RouteRecorder(chunks, rows=count, length=length) if sampling.keep_routes else None
        self.nuclei = NucleusRecorder(count) if sampling.keep_nucleus and sampling.top_p < 1 else None
        # [B, P + max_new_tokens]: what a query may look at
        self.visible = torch.arange(length, device=device()) >= starts[:, None]

    def feed(self) -> Tensor:
        """The tokens that wait through the model; returns [B, V] logits of the last ones."""
        offset, width = self.context.sequence_len_offset, self.tokens.shape[1]
        recording = (
            self.routes.feeding(self.owners, start=offset, width=width) if self.routes else nullcontext()
        )
        with recording:
            logits = _pipelined(self.model, self.tokens, self._mask(offset, width), self.context)
        self.context.sequence_len_offset = offset + width
        self.context.enable_decode_mode()
        return logits

    def _mask(self, offset: int, width: int) -> Tensor:
        """[B, 1, queries, keys] bool, True where a query must not look."""
        visible = self.visible[:, None, : offset + width]
        if width == 1:
            return ~visible[:, None]
        causal = torch.ones(width, width, dtype=torch.bool, device=visible.device).tril()
        # a padded query sees itself, or its softmax has nothing to sum
        itself = torch.eye(width, dtype=torch.bool, device=visible.device)
        return ~((causal & visible) | itself)[:, None]

    def sample(self, logits: Tensor, *, position: int) -> tuple[Tensor, Tensor]:
        draws = uniforms(self.keys, position=position, seed=self.sampling.seed).to(logits.device)
        nuclei, owners = self.nuclei, self.owners
        return next_tokens(
            logits.float(),
            draws,
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            note=None if nuclei is None else lambda allowed: nuclei.note(owners, allowed),
        )

    def with_kept(self, results: list[Sampled], prompts: Sequence[Sequence[int]]) -> list[Sampled]:
        """The results with what training needs to follow this rollout, if it was asked for."""
        if self.routes is not None:
            starts = [self.width - len(prompt) for prompt in prompts]
            fed = [len(p) + len(r.token_ids) - 1 for p, r in zip(prompts, results, strict=True)]
            kept = self.routes.of_rows(starts, fed)
            results = [replace(r, routes=found) for r, found in zip(results, kept, strict=True)]
        if self.nuclei is not None:
            kept = self.nuclei.of_rows([len(r.token_ids) for r in results])
            results = [replace(r, nucleus=found) for r, found in zip(results, kept, strict=True)]
        return results

    def advance(self, tokens: Tensor) -> None:
        """Note what has finished, let finished rows go when they are many, and queue the new tokens."""
        self.finished |= (tokens == self.eos_id).cpu()
        for row, done in zip(self.owners, self.finished.tolist(), strict=True):
            self.finished_of[row] = done
        running = int((~self.finished).sum())
        gone = len(self.owners) - running
        self.tokens = tokens[:, None]
        if running and gone >= max(1, len(self.owners) // DROP_SHARE):
            self._keep((~self.finished).nonzero()[:, 0])

    def _keep(self, rows: Tensor) -> None:
        self.owners = [self.owners[i] for i in rows.tolist()]
        self.keys = [self.keys[i] for i in rows.tolist()]
        self.finished, self.tokens = self.finished[rows], self.tokens[rows]
        self.visible = self.visible[rows]
        memory = self.context.key_value_memory_dict
        for layer, (key, value) in memory.items():
            memory[layer] = (key[:, rows], value[:, rows])
        self.context.max_batch_size = len(self.owners)

    def all_done(self) -> bool:
        """Whether no row is running, here and on the ranks that share this rank's experts."""
        done = bool(self.finished.all())
        if parallel_state.get_expert_model_parallel_world_size() == 1:
            return done
        waiting = torch.tensor([0 if done else 1], device=device())
        group = parallel_state.get_expert_tensor_and_model_parallel_group()
        dist.all_reduce(waiting, op=dist.ReduceOp.MAX, group=group)
        return int(waiting) == 0


def _pipelined(model: GPTModel, tokens: Tensor, mask: Tensor, context: StaticInferenceContext) -> Tensor:
    """[B, V] logits of the last position, on every pipeline rank."""
    positions = context.sequence_len_offset + torch.arange(tokens.shape[1], device=tokens.device)
    first, last = parallel_state.is_pipeline_first_stage(), parallel_state.is_pipeline_last_stage()
    if not first:
        hidden = torch.empty(
            tokens.shape[1], tokens.shape[0], model.config.hidden_size,
            dtype=model.config.params_dtype, device=tokens.device,
        )  # fmt: skip
        dist.recv(hidden, parallel_state.get_pipeline_model_parallel_prev_rank())
        model.set_input_tensor(hidden)
    output = model(
        tokens,
        positions[None].expand(tokens.shape[0], -1),
        mask,
        inference_context=context,
        runtime_gather_output=True,
    )
    if not last:
        dist.send(output.contiguous(), parallel_state.get_pipeline_model_parallel_next_rank())
    if first and last:
        return output[:, -1]
    logits = (
        output[:, -1].float().contiguous()
        if last
        else torch.empty(tokens.shape[0], model.vocab_size, device=tokens.device)
    )
    source = parallel_state.get_pipeline_model_parallel_last_rank()
    dist.broadcast(logits, source, group=parallel_state.get_pipeline_model_parallel_group())
    return logits

"""Sampling on the live weights, in the training layout.

A prompt that comes several times (a group of outputs) is computed once and its cache copied. Prompts are
padded on the left to one length, every step feeds one token a row, and finished rows leave the batch, the
last rows moving into their places. EOS is kept. Ranks that share experts stay in step until the slowest is
done: a rank without rows left feeds one dummy row, or the others would wait for it for ever.
"""

# B rows still running, W padded prompt length, V vocabulary

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Literal, Protocol

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.inference.utils import InferenceMode
from megatron.core.models.gpt.gpt_model import GPTModel
from torch import Tensor

from megatron_r1.backend.decode import LeanDecoder, is_lean
from megatron_r1.backend.decode_modules import ModuleDecoder
from megatron_r1.backend.engine_sampling import engine_can_sample
from megatron_r1.backend.nucleus import NucleusRecorder
from megatron_r1.backend.parallel import device
from megatron_r1.backend.routes import RouteRecorder
from megatron_r1.backend.sampling import next_tokens, uniforms
from megatron_r1.types import Sampled, Sampling

Engine = Literal["megatron", "dynamic"]

DROP_SHARE = 16  # rows leave when a share of 1 / DROP_SHARE of the batch has finished
PAD_TOKEN = 0


class Decoder(Protocol):
    """The model with a cache: LeanDecoder where it knows the model, ModuleDecoder everywhere else."""

    def __init__(self, chunks: Sequence[GPTModel], *, length: int) -> None: ...

    def prefill(self, tokens: Tensor, pads: Tensor) -> Tensor: ...

    def decode(self, tokens: Tensor) -> Tensor: ...

    def spread(self, rows: Tensor) -> None: ...

    def keep(self, rows: Tensor) -> None: ...


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


def generate(
    chunks: Sequence[GPTModel],
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    keys: Sequence[int],
    eos_id: int,
    engine: Engine = "megatron",
    decoder: type[Decoder] | None = None,
) -> list[Sampled]:
    """One output a prompt; all ranks of a replica return the same. decoder: instead of the fitting one."""
    if engine == "dynamic":
        from megatron_r1.backend import dynamic_engine  # it imports a second of Megatron's servers

        with inference(chunks):
            return dynamic_engine.generate(chunks, prompts, sampling, keys=keys, eos_id=eos_id)
    chosen = decoder or (LeanDecoder if is_lean(chunks) else ModuleDecoder)
    results = [Sampled([], []) for _ in prompts]
    with inference(chunks):
        # a rank without prompts only keeps the others company
        batch = _Batch(chosen, chunks, prompts or [[eos_id]], sampling, list(keys) or [0])
        batch.finished = [not prompts] * len(batch.finished)
        logits = batch.prefill()
        for step in range(sampling.max_new_tokens):
            tokens, logprobs = batch.sample(logits, position=step)
            for row, token, logprob in batch.running(tokens, logprobs):
                results[row].token_ids.append(token)
                results[row].logprobs.append(logprob)
            batch.drop_finished(tokens == eos_id)
            if step + 1 == sampling.max_new_tokens or batch.all_done():
                break
            logits = batch.decode()
        return batch.with_kept(results)


class _Batch:
    """The rows in flight: who they belong to, and what is recorded of them."""

    def __init__(
        self,
        decoder: type[Decoder],
        chunks: Sequence[GPTModel],
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        keys: list[int],
    ) -> None:
        self.prompts, self.sampling = prompts, sampling
        self.keys, self.owners = keys, list(range(len(prompts)))  # of each place in the batch
        self.finished = [False] * len(prompts)
        self.width = max(len(prompt) for prompt in prompts)
        length = self.width + sampling.max_new_tokens
        self.decoder = decoder(chunks, length=length)
        count = len(prompts)
        self.routes = RouteRecorder(chunks, rows=count, length=length) if sampling.keep_routes else None
        self.nuclei = NucleusRecorder(count) if sampling.keep_nucleus and sampling.top_p < 1 else None

    def prefill(self) -> Tensor:
        """Each different prompt once through the model; returns [B, V] logits of all rows' last tokens."""
        first: dict[tuple[int, ...], int] = {}
        firsts = [first.setdefault(tuple(prompt), row) for row, prompt in enumerate(self.prompts)]
        unique = list(first.values())  # a row of each different prompt
        places = {row: place for place, row in enumerate(unique)}
        pads = [self.width - len(self.prompts[row]) for row in unique]
        padded = [[PAD_TOKEN] * pad + list(self.prompts[row]) for pad, row in zip(pads, unique, strict=True)]
        with self._recording(unique, start=0, width=self.width):
            logits = self.decoder.prefill(_on_device(padded), _on_device(pads))
        rows = _on_device([places[row] for row in firsts])
        self.decoder.spread(rows)
        if self.routes:
            self.routes.spread(firsts, width=self.width)
        self.fed = self.width
        return logits[rows]

    def decode(self) -> Tensor:
        """The newest tokens through the model; returns [B, V] logits."""
        with self._recording(self.owners, start=self.fed, width=1):
            logits = self.decoder.decode(self.tokens)
        self.fed += 1
        return logits

    def _recording(self, rows: Sequence[int], *, start: int, width: int) -> AbstractContextManager[None]:
        return self.routes.feeding(rows, start=start, width=width) if self.routes else nullcontext()

    def sample(self, logits: Tensor, *, position: int) -> tuple[Tensor, Tensor]:
        """The next token of every row, and its log-prob."""
        draws = uniforms(self.keys, position=position, seed=self.sampling.seed).to(logits.device)
        nuclei, owners = self.nuclei, self.owners
        self.tokens, logprobs = next_tokens(
            logits.float(),
            draws,
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            note=None if nuclei is None else lambda allowed: nuclei.note(owners, allowed),
        )
        return self.tokens, logprobs

    def running(self, tokens: Tensor, logprobs: Tensor) -> Iterator[tuple[int, int, float]]:
        """(prompt's row, token, log-prob) of the rows that had not finished before."""
        found = zip(self.owners, tokens.tolist(), logprobs.tolist(), self.finished, strict=True)
        return ((row, token, logprob) for row, token, logprob, finished in found if not finished)

    def drop_finished(self, ends: Tensor) -> None:
        """ends: [B] bool. When many rows have finished they leave, and the last rows take their places."""
        self.finished = [was or now for was, now in zip(self.finished, ends.tolist(), strict=True)]
        running = [place for place, finished in enumerate(self.finished) if not finished]
        gone = len(self.finished) - len(running)
        if not running or gone * DROP_SHARE < len(self.finished) or not gone:
            return
        last = iter(reversed(running))
        kept = [next(last) if self.finished[place] else place for place in range(len(running))]
        self.owners = [self.owners[place] for place in kept]
        self.keys = [self.keys[place] for place in kept]
        self.finished = [False] * len(kept)
        rows = _on_device(kept)
        self.tokens = self.tokens[rows]
        self.decoder.keep(rows)

    def all_done(self) -> bool:
        """Whether no row is running, here and on the ranks that share this rank's experts."""
        if parallel_state.get_expert_model_parallel_world_size() == 1:
            return all(self.finished)
        waiting = torch.tensor([0 if all(self.finished) else 1], device=device())
        group = parallel_state.get_expert_tensor_and_model_parallel_group()
        dist.all_reduce(waiting, op=dist.ReduceOp.MAX, group=group)
        return int(waiting) == 0

    def with_kept(self, results: list[Sampled]) -> list[Sampled]:
        """The results with what training needs to follow this rollout, if it was asked for."""
        if self.routes is not None:
            starts = [self.width - len(prompt) for prompt in self.prompts]
            fed = [len(p) + len(r.token_ids) - 1 for p, r in zip(self.prompts, results, strict=False)]
            kept = self.routes.of_rows(starts, fed)  # collective, of a rank without prompts too
            results = [replace(r, routes=found) for r, found in zip(results, kept, strict=True)]
        if self.nuclei is not None:
            kept = self.nuclei.of_rows([len(r.token_ids) for r in results])
            results = [replace(r, nucleus=found) for r, found in zip(results, kept, strict=True)]
        return results


def _on_device(values: list) -> Tensor:
    return torch.tensor(values, device=device())

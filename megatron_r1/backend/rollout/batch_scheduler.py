"""Batch scheduler: continuous batching of one rollout's completions over a bounded number of slots.

A prompt that several completions share (a group) is prefilled once and its cache copied. A decoding step
feeds one token a sequence, or two, the second a draft (backend/rollout/decoder/speculative.py). Ended
sequences leave the batch, the last ones moving into their slots, and waiting prompts enter as soon as enough
slots are free. Tokens don't depend on the schedule: draws are keyed (sampling.py).

Ranks of an expert-parallel group take every step together until the slowest is done, since every layer is a
collective; a rank without sequences feeds a dummy. Once a step they exchange their batch sizes, which fix the
sizes of all messages in the layers (backend/rollout/decoder/expert_parallel.py).

A partial completion is prefilled with its prompt, since its cache belonged to older weights. A call with
partial completions may end before all of them are complete: see types.Begun.
"""

# B sequences in the batch, F tokens fed to each, U different prompts, W the longest of them, V vocabulary

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from megatron.core.models.gpt.gpt_model import GPTModel
from torch import Tensor

from megatron_r1.backend.model.routing_replay import RouteRecorder
from megatron_r1.backend.model.top_p_mask import TopPMaskRecorder
from megatron_r1.backend.parallel.process_groups import device
from megatron_r1.backend.rollout.decoder.expert_parallel import Exchange
from megatron_r1.backend.rollout.sampling import next_tokens, uniforms
from megatron_r1.types import Begun, OnEnd, Sampled, Sampling

LEAVE_SHARE = 16  # ended sequences leave when they are 1 / LEAVE_SHARE of the batch
ENTER_SHARE = 8  # prompts enter when 1 / ENTER_SHARE of all slots is free
PREFILL_TOKENS = 65536  # at most in one prefill (but a single prompt may be longer): bounds the activations
# Steps between two collectives that check whether required completions still run: max_new_tokens /
# CHECK_SHARE, and at most CHECK_EVERY.
CHECK_SHARE, CHECK_EVERY = 8, 16
PAD_TOKEN = 0
NO_TOKEN = -1
NO_POSITION = -1  # position of a token that belongs to no completion: padding


class Decoder(Protocol):
    """The model with a KV cache. A sequence is known by its slot, its index in the batch."""

    pads_left: ClassVar[bool]
    refills: ClassVar[bool]  # whether prompts can enter while other sequences run
    width: ClassVar[int]  # F: 1, or 2 for a Drafter

    def __init__(self, chunks: Sequence[GPTModel], *, rows: int, length: int) -> None:
        """rows: the number of slots. length: the most tokens of a sequence."""
        ...

    def prefill(self, tokens: Tensor, positions: Tensor, *, max_tokens: int) -> Tensor:
        """Compute prompts; the batch stays as it is. Returns [U, V], the logits of their last tokens.

        tokens, positions: [U, W]. max_tokens: the most tokens, padding included, that a rank of the
        expert-parallel group feeds."""
        ...

    def enter(self, prompts: Tensor) -> None:
        """Append sequences to the batch: copies of these prompts, by their index in the newest prefill."""
        ...

    def decode(self, tokens: Tensor, positions: Sequence[int], *, max_tokens: int) -> Tensor:
        """tokens: [B, F], the next of each sequence; positions: of the first. Returns [B, F, V] logits."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Slot i takes the sequence of slot rows[i] >= i; all other sequences leave."""
        ...


@runtime_checkable
class Drafter(Decoder, Protocol):
    """A decoder that drafts tokens (backend/rollout/decoder/speculative.py)."""

    def draft(self, tokens: Tensor, positions: Sequence[int], newest: Tensor, *, max_tokens: int) -> Tensor:
        """[B, V] logits for a draft of the token after the newest.

        tokens: [B, F], sampled after the tokens fed last. positions: of the first token fed last. newest:
        [B], the index of each sequence's newest token in `tokens`; those behind it were rejected.
        """
        ...


@dataclass(slots=True)
class _Sequence:
    """The sequence in a slot. completion: the index of its completion. start: the position of the prompt's
    last token. drawn: tokens sampled so far, `fresh` of them in the last step."""

    completion: int
    key: int
    start: int
    drawn: int = 0
    fresh: int = 1
    ended: bool = False

    @property
    def position(self) -> int:
        """The position of the newest token; an ended sequence feeds that token again."""
        return self.start + self.drawn


class BatchScheduler:
    """One call of rollout.engine.generate."""

    def __init__(
        self,
        decoder: Callable[..., Decoder],
        chunks: Sequence[GPTModel],
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        keys: Sequence[int],
        eos_ids: Sequence[int],
        rows: int | None,
        begun: Sequence[Begun] | None = None,
        on_end: OnEnd | None = None,
    ) -> None:
        """decoder: a constructor. eos_ids: each of them ends a completion. rows: the number of slots; None:
        one for each prompt. begun: as in Policy.generate; none of them is complete or at its limit."""
        self.prompts, self.keys, self.sampling, self.eos_ids = prompts, keys, sampling, eos_ids
        self.on_end = on_end
        before = [Sampled([], []) for _ in prompts] if begun is None else [b.output for b in begun]
        self.results = [replace(o, token_ids=[*o.token_ids], logprobs=[*o.logprobs]) for o in before]
        # required completions that still run; None: all are required, and the call ends with the last
        self.required = None if begun is None else {i for i, one in enumerate(begun) if one.due}
        self.limits = [sampling.max_new_tokens] * len(prompts)
        if begun is not None:
            self.limits = [one.limit or sampling.max_new_tokens for one in begun]
        self.steps, self.check_every = 0, max(1, min(CHECK_EVERY, sampling.max_new_tokens // CHECK_SHARE))
        self.num_slots = max(1, min(len(prompts), rows or len(prompts)))
        self.entered = 0  # prompts so far, in their order
        self.batch: list[_Sequence] = []
        self.exchange = Exchange()
        self.dummy = len(prompts)  # the index of a dummy, fed only because other ranks take a step
        self.logits = torch.zeros(0, device=device())  # [B, F, V] that the next tokens are drawn from
        self.tokens = torch.zeros(0, device=device())  # [B, F] drawn from them
        self.drafts = torch.zeros(0, device=device())  # [B, F - 1] that were fed
        # of each step the log-probs [B * F] and (index into them, completion) of the tokens that count
        self.logprobs: list[tuple[list[tuple[int, int]], Tensor]] = []
        self.drafted, self.accepted = [o.trace.drafted for o in before], [o.trace.accepted for o in before]
        length = max(map(len, prompts), default=1) + sampling.max_new_tokens
        self.decoder = decoder(chunks, rows=self.num_slots, length=length)
        count = self.dummy + 1
        self.routes = RouteRecorder(chunks, rows=count, length=length) if sampling.keep_routes else None
        self.nuclei = TopPMaskRecorder(count) if sampling.keep_nucleus and sampling.top_p < 1 else None

    def run(self) -> list[Sampled]:
        running, entering, largest = 0, 1, 0
        while self._goes_on(bool(running or entering)):
            if running:
                self._decode(largest * self.decoder.width)
            if entering:
                self._enter()
            if running or entering:
                self._sample()
            running, entering, largest = self.exchange.maximum(
                self._is_running(), self._can_enter(), len(self.batch)
            )
        return self._with_traces()

    def _goes_on(self, busy: bool) -> bool:
        """All ranks take the same number of steps: until no required completion runs on any of them."""
        if self.required is None:
            return busy
        self.steps += 1
        if self.steps % self.check_every:
            return True
        runs = torch.tensor(len(self.required), device=device())
        dist.all_reduce(runs, op=dist.ReduceOp.MAX)
        return bool(runs)

    def _is_running(self) -> bool:
        return not all(sequence.ended for sequence in self.batch)

    def _can_enter(self) -> bool:
        if self.entered == len(self.prompts):
            return False
        running = sum(not sequence.ended for sequence in self.batch)
        if not self.decoder.refills:
            return not running
        free, waiting = self.num_slots - running, len(self.prompts) - self.entered
        return free * ENTER_SHARE >= self.num_slots or free >= waiting

    def _enter(self) -> None:
        """Prefill waiting prompts, each different one once, and append their sequences to the batch."""
        if not self._can_enter():  # another rank of the expert-parallel group prefills
            logits = self._prefill([[self.eos_ids[0]]], [self.dummy])
            if not self.batch:
                self._take([_Sequence(self.dummy, key=0, start=1, ended=True)], [0], logits)
            return
        self._leave()
        first: dict[tuple[int, ...], int] = {}  # the first completion of each different text
        firsts: list[int] = []
        entering = self._entering(first, firsts)
        self.entered = entering.stop
        unique = {completion: i for i, completion in enumerate(first.values())}
        logits = self._prefill(list(first), list(unique))
        rows = [self._sequence(completion) for completion in entering]
        self._take(rows, [unique[completion] for completion in firsts], logits)
        if self.routes:
            self.routes.copy(firsts, list(entering))

    def _entering(self, first: dict[tuple[int, ...], int], firsts: list[int]) -> range:
        """The completions that enter now: as many as there are free slots, within PREFILL_TOKENS.

        Fills `first`, the first completion of each different text, and `firsts`, for every completion the
        first one with the same text.
        """
        last, width = min(len(self.prompts), self.entered + self.num_slots - len(self.batch)), 0
        for completion in range(self.entered, last):
            text = (*self.prompts[completion], *self.results[completion].token_ids)
            width = max(width, len(text))
            size = (len(first) + (text not in first)) * width
            if self.decoder.refills and firsts and size > PREFILL_TOKENS:
                return range(self.entered, completion)
            firsts.append(first.setdefault(text, completion))
        return range(self.entered, last)

    def _sequence(self, completion: int) -> _Sequence:
        start, drawn = len(self.prompts[completion]) - 1, len(self.results[completion].token_ids)
        return _Sequence(completion, self.keys[completion], start=start, drawn=drawn)

    def _prefill(self, prompts: Sequence[Sequence[int]], completions: Sequence[int]) -> Tensor:
        width = max(map(len, prompts))
        tokens, positions = [], []
        for prompt in prompts:
            padding = width - len(prompt)
            left, right = (padding, 0) if self.decoder.pads_left else (0, padding)
            tokens.append([PAD_TOKEN] * left + list(prompt) + [PAD_TOKEN] * right)
            positions.append([NO_POSITION] * left + list(range(len(prompt))) + [NO_POSITION] * right)
        where = _on_device(positions)
        (max_tokens,) = self.exchange.maximum(where.numel())
        with self._recording(completions, where):
            return self.decoder.prefill(_on_device(tokens), where, max_tokens=max_tokens)

    def _take(self, rows: list[_Sequence], prompts: list[int], logits: Tensor) -> None:
        """Append `rows` to the batch; prompts: the index of each one's prompt in the newest prefill."""
        copied = _on_device(prompts)
        self.decoder.enter(copied)
        # no draft follows a prompt's end: tokens drawn at the draft's position don't count
        new = logits[copied][:, None].expand(-1, self.decoder.width, -1)
        drafts = copied.new_full((len(rows), self.decoder.width - 1), NO_TOKEN)
        self.logits = torch.cat([self.logits, new]) if self.batch else new
        self.drafts = torch.cat([self.drafts, drafts]) if self.batch else drafts
        self.batch += rows

    def _decode(self, max_tokens: int) -> None:
        """Feed the newest tokens, with a Drafter also a draft after each."""
        fed, self.drafts = self.tokens, self.tokens[:, :0]
        if isinstance(self.decoder, Drafter):
            fresh = _on_device([sequence.fresh for sequence in self.batch]) - 1
            positions = [sequence.position - sequence.fresh for sequence in self.batch]
            self.drafts = self._draw(
                self.decoder.draft(self.tokens, positions, fresh, max_tokens=max_tokens)[:, None]
            )[0]
            fed = torch.cat([self.tokens.gather(1, fresh[:, None]), self.drafts], dim=1)
        completions = [sequence.completion for sequence in self.batch]
        positions = [sequence.position for sequence in self.batch]
        with self._recording(completions, self._positions(positions) if self.routes else None):
            self.logits = self.decoder.decode(fed, positions, max_tokens=max_tokens)

    def _positions(self, first: list[int]) -> Tensor:
        """[B, F]."""
        return _on_device(first)[:, None] + torch.arange(self.decoder.width, device=device())

    def _recording(
        self, completions: Sequence[int], positions: Tensor | None
    ) -> AbstractContextManager[None]:
        if self.routes is None or positions is None:
            return nullcontext()
        return self.routes.feeding(completions, positions)

    def _draw(self, logits: Tensor, note: Callable[[Tensor], None] | None = None) -> tuple[Tensor, Tensor]:
        """logits: [B, n, V] for the next n tokens. Returns the tokens and their log-probs, [B, n]."""
        count = logits.shape[1]
        draws = uniforms(
            [sequence.key for sequence in self.batch for _ in range(count)],
            position=[sequence.drawn + i for sequence in self.batch for i in range(count)],
            seed=self.sampling.seed,
        )
        tokens, logprobs = next_tokens(
            logits.flatten(0, 1).float(),
            draws.to(logits.device),
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            note=note,
        )
        return tokens.view(-1, count), logprobs.view(-1, count)

    def _sample(self) -> None:
        """Draw the next tokens of every sequence; ended sequences leave once they are many."""
        nuclei: list[Tensor] = []
        self.tokens, logprobs = self._draw(self.logits, nuclei.append)
        width = self.decoder.width
        both = self.tokens if width == 1 else torch.cat([self.tokens, self.drafts], dim=1)
        kept: list[tuple[int, int]] = []
        sampled = both.tolist()  # the step's only device sync
        for slot, (sequence, ids) in enumerate(zip(self.batch, sampled, strict=True)):
            if not sequence.ended:
                self._add(sequence, ids[:width], ids[width:])
                kept += [(slot * width + i, sequence.completion) for i in range(sequence.fresh)]
        self.logprobs.append((kept, logprobs.flatten()))
        if self.nuclei is not None and nuclei and kept:
            self.nuclei.note(
                [completion for _, completion in kept], nuclei[0][_on_device([i for i, _ in kept])]
            )
        if sum(sequence.ended for sequence in self.batch) * LEAVE_SHARE >= len(self.batch):
            self._leave(but_one=True)

    def _add(self, sequence: _Sequence, tokens: list[int], drafts: list[int]) -> None:
        """Append the drawn tokens that count: the first one, and each after an accepted draft."""
        result, limit = self.results[sequence.completion], self.limits[sequence.completion]
        sequence.fresh = 0
        for token, draft in zip(tokens, [*drafts, NO_TOKEN], strict=True):
            result.token_ids.append(token)
            sequence.fresh += 1
            sequence.drawn += 1
            sequence.ended = token in self.eos_ids or sequence.drawn == limit
            if sequence.ended and self.required is not None:
                self.required.discard(sequence.completion)
            if sequence.ended and self.on_end is not None:
                self.on_end(sequence.completion, result.token_ids)
            if draft != NO_TOKEN:
                self.drafted[sequence.completion] += 1
                self.accepted[sequence.completion] += token == draft
            if sequence.ended or token != draft:
                return

    def _leave(self, *, but_one: bool = False) -> None:
        """Remove ended sequences from the batch; the last ones move into their slots.

        but_one: if all have ended, one stays as the dummy.
        """
        running = [slot for slot, sequence in enumerate(self.batch) if not sequence.ended]
        last = iter(reversed(running))
        kept = [next(last) if self.batch[slot].ended else slot for slot in range(len(running))]
        if but_one and not kept:
            kept = [0]
        if len(kept) < len(self.batch):
            index = _on_device(kept)
            self.batch = [self.batch[slot] for slot in kept]
            self.tokens, self.logits, self.drafts = self.tokens[index], self.logits[index], self.drafts[index]
            self.decoder.keep(index)

    def _read_logprobs(self) -> None:
        """Copy all log-probs to the CPU at once: a copy a token would sync the device each time."""
        values = torch.cat([torch.zeros(0, device=device()), *(found for _, found in self.logprobs)]).tolist()
        first = 0
        for kept, found in self.logprobs:
            for index, completion in kept:
                self.results[completion].logprobs.append(values[first + index])
            first += len(found)

    def _with_traces(self) -> list[Sampled]:
        """The results with what training needs to follow this rollout, if it was asked for."""
        self._read_logprobs()
        results = self.results
        traces = [result.trace for result in results]
        if self.decoder.width > 1:
            counts = zip(traces, self.drafted, self.accepted, strict=False)
            traces = [replace(t, drafted=drafted, accepted=accepted) for t, drafted, accepted in counts]
        if self.routes is not None:
            fed = [len(p) + len(r.token_ids) - 1 for p, r in zip(self.prompts, results, strict=True)]
            kept = self.routes.of_rows(fed)  # collective, of a rank without prompts too
            traces = [replace(t, routes=found) for t, found in zip(traces, kept, strict=True)]
        if self.nuclei is not None:
            kept = self.nuclei.of_rows([len(r.token_ids) for r in results])
            traces = [replace(t, nucleus=found) for t, found in zip(traces, kept, strict=True)]
        return [replace(r, trace=trace) for r, trace in zip(results, traces, strict=True)]


def _on_device(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.long, device=device())

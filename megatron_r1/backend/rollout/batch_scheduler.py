"""The outputs of one rollout, a bounded number of them in flight at once.

A prompt that enters several times (a group of outputs) is computed once and its cache copied. Every step
feeds one token a row, or two, the second a draft (backend/rollout/decoder/speculative.py). Rows that have
ended leave, the last rows moving into their places, and waiting prompts enter as soon as enough places are
free. What is sampled depends on none of this: draws are keyed (sampling.py).

Ranks that share experts take every step together until the slowest is done, or the others would wait for
ever: one that has nothing to feed feeds a dummy row. Once a step they tell each other how many rows they
have, which fixes the sizes of what they exchange in every layer (backend/rollout/decoder/expert_parallel.py).

Outputs may go on from tokens drawn before, by older weights: these are read again with the prompt, since
their cache is that of those weights. Such a call may end before all outputs have: see types.Begun.
"""

# B rows in the batch, F tokens fed to each, U different prompts, W longest of them, V vocabulary

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from megatron.core.models.gpt.gpt_model import GPTModel
from torch import Tensor

from megatron_r1.backend.model.routing_replay import RouteRecorder
from megatron_r1.backend.model.top_p_mask import NucleusRecorder
from megatron_r1.backend.parallel.process_groups import device
from megatron_r1.backend.rollout.decoder.expert_parallel import Exchange
from megatron_r1.backend.rollout.sampling import next_tokens, uniforms
from megatron_r1.types import Begun, OnEnd, Sampled, Sampling

LEAVE_SHARE = 16  # rows leave when a share of 1 / LEAVE_SHARE of the batch has ended
ENTER_SHARE = 8  # prompts enter when a share of 1 / ENTER_SHARE of all places is free
PREFILL_TOKENS = 65536  # read at once, but for a single prompt that is longer: bounds the activations
# steps between two questions to all ranks whether outputs that are due still run: this share of the longest
# output, and no more than the number
ASK_SHARE, ASK_EVERY = 8, 16
PAD_TOKEN = 0
NO_TOKEN = -1
NO_PLACE = -1  # of a token that belongs to no output: padding, or a row that has ended


class Decoder(Protocol):
    """The model with a cache. Rows of the batch are numbered by their places."""

    pads_left: ClassVar[bool]
    refills: ClassVar[bool]  # whether prompts can enter beside rows that run
    width: ClassVar[int]  # F: 1, or 2 of a Drafter

    def __init__(self, chunks: Sequence[GPTModel], *, rows: int, length: int) -> None:
        """At most so many rows at once, each of at most `length` tokens."""
        ...

    def prefill(self, tokens: Tensor, places: Tensor, *, most: int) -> Tensor:
        """tokens, places: [U, W] of prompts and where each token stands in its own. most: tokens, padding and
        all, of the rank that feeds most, of those that share experts with this one. Returns [U, V] logits of
        the last tokens. The batch is as before."""
        ...

    def enter(self, prompts: Tensor) -> None:
        """Behind the batch's rows come copies of these of the newest prefill's prompts."""
        ...

    def decode(self, tokens: Tensor, places: Sequence[int], *, most: int) -> Tensor:
        """tokens: [B, F], the next of each row, and where the first stands. Returns [B, F, V] logits."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Row i becomes the former row rows[i] >= i; the rows behind leave."""
        ...


@runtime_checkable
class Drafter(Decoder, Protocol):
    """One that guesses tokens (backend/rollout/decoder/speculative.py)."""

    def draft(self, tokens: Tensor, places: Sequence[int], newest: Tensor, *, most: int) -> Tensor:
        """[B, V] logits of a guess at the token after the newest.

        tokens: [B, F], sampled after the tokens fed last. places: of the first of those. newest: [B], which
        of `tokens` is the row's newest; what comes behind it is no token of the row.
        """
        ...


@dataclass(slots=True)
class _Row:
    """A place in the batch. `start`: where the prompt's last token stands; `drawn`: tokens sampled so far,
    `fresh` of them the last time."""

    output: int
    key: int
    start: int
    drawn: int = 0
    fresh: int = 1
    ended: bool = False

    @property
    def at(self) -> int:
        """Where the newest token stands; one that has ended feeds it again."""
        return self.start + self.drawn


class Flight:
    """One call of rollout.generate."""

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
        """decoder: makes one, as its constructor. eos_ids: each of them ends an output. rows: the most
        outputs that run at once, None for all. begun: as of Policy.generate; none of them has ended or is at
        its limit."""
        self.prompts, self.keys, self.sampling, self.eos_ids = prompts, keys, sampling, eos_ids
        self.on_end = on_end
        before = [Sampled([], []) for _ in prompts] if begun is None else [b.output for b in begun]
        self.results = [replace(o, token_ids=[*o.token_ids], logprobs=[*o.logprobs]) for o in before]
        # outputs that are due and run; None: all are, and the call ends with the last
        self.due = None if begun is None else {i for i, one in enumerate(begun) if one.due}
        self.limits = [sampling.max_new_tokens] * len(prompts)
        if begun is not None:
            self.limits = [one.limit or sampling.max_new_tokens for one in begun]
        self.steps, self.ask_every = 0, max(1, min(ASK_EVERY, sampling.max_new_tokens // ASK_SHARE))
        self.places = max(1, min(len(prompts), rows or len(prompts)))
        self.entered = 0  # prompts so far, in their order
        self.rows: list[_Row] = []
        self.exchange = Exchange()
        self.dummy = len(prompts)  # the output of a row that only keeps other ranks company
        self.logits = torch.zeros(0, device=device())  # [B, F, V] that the next tokens are drawn from
        self.tokens = torch.zeros(0, device=device())  # [B, F] drawn from them
        self.drafts = torch.zeros(0, device=device())  # [B, F - 1] that were fed
        # a step's log-probs [B * F] with the tokens that count, (index into them, output): read at the end
        self.logprobs: list[tuple[list[tuple[int, int]], Tensor]] = []
        self.drafted, self.accepted = [o.drafted for o in before], [o.accepted for o in before]
        length = max(map(len, prompts), default=1) + sampling.max_new_tokens
        self.decoder = decoder(chunks, rows=self.places, length=length)
        count = self.dummy + 1
        self.routes = RouteRecorder(chunks, rows=count, length=length) if sampling.keep_routes else None
        self.nuclei = NucleusRecorder(count) if sampling.keep_nucleus and sampling.top_p < 1 else None

    def run(self) -> list[Sampled]:
        running, entering, most = 0, 1, 0
        while self._goes_on(bool(running or entering)):
            if running:
                self._decode(most * self.decoder.width)
            if entering:
                self._enter()
            if running or entering:
                self._sample()
            running, entering, most = self.exchange.most(
                self._is_running(), self._can_enter(), len(self.rows)
            )
        return self._with_kept()

    def _goes_on(self, busy: bool) -> bool:
        """Outputs that aren't due run as long as others, of any rank, that are: so many steps everywhere."""
        if self.due is None:
            return busy
        self.steps += 1
        if self.steps % self.ask_every:
            return True
        runs = torch.tensor(len(self.due), device=device())
        dist.all_reduce(runs, op=dist.ReduceOp.MAX)
        return bool(runs)

    def _is_running(self) -> bool:
        return not all(row.ended for row in self.rows)

    def _can_enter(self) -> bool:
        if self.entered == len(self.prompts):
            return False
        running = sum(not row.ended for row in self.rows)
        if not self.decoder.refills:
            return not running
        free, waiting = self.places - running, len(self.prompts) - self.entered
        return free * ENTER_SHARE >= self.places or free >= waiting

    def _enter(self) -> None:
        """Waiting prompts come behind the batch, each different one through the model once."""
        if not self._can_enter():  # but a rank that shares this rank's experts has prompts that do
            logits = self._prefill([[self.eos_ids[0]]], [self.dummy])
            if not self.rows:
                self._take([_Row(self.dummy, key=0, start=1, ended=True)], [0], logits)
            return
        self._leave()
        first: dict[tuple[int, ...], int] = {}  # an output of each different text so far
        firsts: list[int] = []
        entering = self._entering(first, firsts)
        self.entered = entering.stop
        unique = {output: place for place, output in enumerate(first.values())}
        logits = self._prefill(list(first), list(unique))
        rows = [self._row(output) for output in entering]
        self._take(rows, [unique[output] for output in firsts], logits)
        if self.routes:
            self.routes.copy(firsts, list(entering))

    def _entering(self, first: dict[tuple[int, ...], int], firsts: list[int]) -> range:
        """The outputs that enter now: as many as there are places, if that isn't too much to read at once.

        Fills `first`, the first output of each different text, and for every output the one with its text.
        """
        last, width = min(len(self.prompts), self.entered + self.places - len(self.rows)), 0
        for output in range(self.entered, last):
            text = (*self.prompts[output], *self.results[output].token_ids)
            width = max(width, len(text))
            size = (len(first) + (text not in first)) * width
            if self.decoder.refills and firsts and size > PREFILL_TOKENS:
                return range(self.entered, output)
            firsts.append(first.setdefault(text, output))
        return range(self.entered, last)

    def _row(self, output: int) -> _Row:
        start, drawn = len(self.prompts[output]) - 1, len(self.results[output].token_ids)
        return _Row(output, self.keys[output], start=start, drawn=drawn)

    def _prefill(self, prompts: Sequence[Sequence[int]], outputs: Sequence[int]) -> Tensor:
        width = max(map(len, prompts))
        tokens, places = [], []
        for prompt in prompts:
            padding = width - len(prompt)
            left, right = (padding, 0) if self.decoder.pads_left else (0, padding)
            tokens.append([PAD_TOKEN] * left + list(prompt) + [PAD_TOKEN] * right)
            places.append([NO_PLACE] * left + list(range(len(prompt))) + [NO_PLACE] * right)
        where = _on_device(places)
        (most,) = self.exchange.most(where.numel())
        with self._recording(outputs, where):
            return self.decoder.prefill(_on_device(tokens), where, most=most)

    def _take(self, rows: list[_Row], prompts: list[int], logits: Tensor) -> None:
        """New rows, copies of these of the newest prefill's prompts."""
        copied = _on_device(prompts)
        self.decoder.enter(copied)
        # a prompt's end has no draft behind it: what is drawn there counts for nothing
        new = logits[copied][:, None].expand(-1, self.decoder.width, -1)
        drafts = copied.new_full((len(rows), self.decoder.width - 1), NO_TOKEN)
        self.logits = torch.cat([self.logits, new]) if self.rows else new
        self.drafts = torch.cat([self.drafts, drafts]) if self.rows else drafts
        self.rows += rows

    def _decode(self, most: int) -> None:
        """The newest tokens through the model, each with a draft of the one behind it."""
        fed, self.drafts = self.tokens, self.tokens[:, :0]
        if isinstance(self.decoder, Drafter):
            fresh = _on_device([row.fresh for row in self.rows]) - 1
            places = [row.at - row.fresh for row in self.rows]
            self.drafts = self._draw(self.decoder.draft(self.tokens, places, fresh, most=most)[:, None])[0]
            fed = torch.cat([self.tokens.gather(1, fresh[:, None]), self.drafts], dim=1)
        outputs, places = [row.output for row in self.rows], [row.at for row in self.rows]
        with self._recording(outputs, self._places(places) if self.routes else None):
            self.logits = self.decoder.decode(fed, places, most=most)

    def _places(self, first: list[int]) -> Tensor:
        """[B, F]."""
        return _on_device(first)[:, None] + torch.arange(self.decoder.width, device=device())

    def _recording(self, outputs: Sequence[int], places: Tensor | None) -> AbstractContextManager[None]:
        if self.routes is None or places is None:
            return nullcontext()
        return self.routes.feeding(outputs, places)

    def _draw(self, logits: Tensor, note: Callable[[Tensor], None] | None = None) -> tuple[Tensor, Tensor]:
        """logits: [B, n, V] of each row's next n tokens -> the tokens and their log-probs, [B, n]."""
        count = logits.shape[1]
        draws = uniforms(
            [row.key for row in self.rows for _ in range(count)],
            position=[row.drawn + i for row in self.rows for i in range(count)],
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
        """The next tokens of every row. Rows whose output is complete end, and leave when they are many."""
        nuclei: list[Tensor] = []
        self.tokens, logprobs = self._draw(self.logits, nuclei.append)
        width = self.decoder.width
        both = self.tokens if width == 1 else torch.cat([self.tokens, self.drafts], dim=1)
        kept: list[tuple[int, int]] = []
        for place, (row, ids) in enumerate(zip(self.rows, both.tolist(), strict=True)):  # the step's one wait
            if not row.ended:
                self._add(row, ids[:width], ids[width:])
                kept += [(place * width + i, row.output) for i in range(row.fresh)]
        self.logprobs.append((kept, logprobs.flatten()))
        if self.nuclei is not None and nuclei and kept:
            self.nuclei.note([output for _, output in kept], nuclei[0][_on_device([i for i, _ in kept])])
        if sum(row.ended for row in self.rows) * LEAVE_SHARE >= len(self.rows):
            self._leave(but_one=True)

    def _add(self, row: _Row, tokens: list[int], drafts: list[int]) -> None:
        """What one row has drawn: the first token, and each behind a draft that was right."""
        result, limit = self.results[row.output], self.limits[row.output]
        row.fresh = 0
        for token, draft in zip(tokens, [*drafts, NO_TOKEN], strict=True):
            result.token_ids.append(token)
            row.fresh += 1
            row.drawn += 1
            row.ended = token in self.eos_ids or row.drawn == limit
            if row.ended and self.due is not None:
                self.due.discard(row.output)
            if row.ended and self.on_end is not None:
                self.on_end(row.output, result.token_ids)
            if draft != NO_TOKEN:
                self.drafted[row.output] += 1
                self.accepted[row.output] += token == draft
            if row.ended or token != draft:
                return

    def _leave(self, *, but_one: bool = False) -> None:
        """Rows that have ended leave the batch, the last rows taking their places.

        but_one: if all have ended, one stays as the dummy.
        """
        running = [place for place, row in enumerate(self.rows) if not row.ended]
        last = iter(reversed(running))
        kept = [next(last) if self.rows[place].ended else place for place in range(len(running))]
        if but_one and not kept:
            kept = [0]
        if len(kept) < len(self.rows):
            index = _on_device(kept)
            self.rows = [self.rows[place] for place in kept]
            self.tokens, self.logits, self.drafts = self.tokens[index], self.logits[index], self.drafts[index]
            self.decoder.keep(index)

    def _read_logprobs(self) -> None:
        """All at once: a device would be waited for at every token else."""
        values = torch.cat([torch.zeros(0, device=device()), *(found for _, found in self.logprobs)]).tolist()
        first = 0
        for kept, found in self.logprobs:
            for index, output in kept:
                self.results[output].logprobs.append(values[first + index])
            first += len(found)

    def _with_kept(self) -> list[Sampled]:
        """The results with what training needs to follow this rollout, if it was asked for."""
        self._read_logprobs()
        results = self.results
        if self.decoder.width > 1:
            counts = zip(results, self.drafted, self.accepted, strict=False)
            results = [replace(r, drafted=drafted, accepted=accepted) for r, drafted, accepted in counts]
        if self.routes is not None:
            fed = [len(p) + len(r.token_ids) - 1 for p, r in zip(self.prompts, results, strict=True)]
            kept = self.routes.of_rows(fed)  # collective, of a rank without prompts too
            results = [replace(r, routes=found) for r, found in zip(results, kept, strict=True)]
        if self.nuclei is not None:
            kept = self.nuclei.of_rows([len(r.token_ids) for r in results])
            results = [replace(r, nucleus=found) for r, found in zip(results, kept, strict=True)]
        return results


def _on_device(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.long, device=device())

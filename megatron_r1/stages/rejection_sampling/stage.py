"""The rejection_sampling stage: many samples a prompt, of which those that are right and read well are kept.

DeepSeek-R1, section 2.3.3, and section 2.3.1 for the cold start. Samples come in shards; while one is drawn,
the one before is judged in a thread. What the samples of a shard decide by themselves is decided there
(verdict, filters, decontamination); duplicates and quotas take the shards in their order, so that they follow
when a shard is whole. What it leaves: curation/shards.py; its data serves as `{source: stage}` and as
`{source: jsonl}`.
"""

import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from megatron_r1 import registry
from megatron_r1.config.spelling import MOST_ITEMS, SAMPLES_OR_GROUP_SIZE, MaxNewTokens, Temperature
from megatron_r1.curation.candidate import Provenance, Screen, published
from megatron_r1.curation.card import Card
from megatron_r1.curation.contamination import NGRAM, EvaluationText
from megatron_r1.curation.duplicates import Duplicates
from megatron_r1.curation.filters import Filters
from megatron_r1.curation.rewrite import Rewrite
from megatron_r1.curation.selection import Selection, select
from megatron_r1.curation.shards import Workshop, num_whole, shares
from megatron_r1.curation.verdict import judge
from megatron_r1.data.chat_template import TAGS
from megatron_r1.data.mixture import build_mixture, replica_range
from megatron_r1.errors import Interrupted
from megatron_r1.files.run_directory import CANDIDATES
from megatron_r1.section import Section
from megatron_r1.stages.base import Demand, StageConfig, too_long
from megatron_r1.stages.context import StageContext
from megatron_r1.stages.evaluation.accuracy import Sources
from megatron_r1.stages.evaluation.ungraded import PATIENCE, UngradedWatch, first_reason
from megatron_r1.stages.judge import JudgeOptions, Opinions, ask, judge_of
from megatron_r1.stages.rejection_sampling.restyle import UNPARSEABLE, Restyle, restyled
from megatron_r1.stages.sampling import accepted_share, draft_counts, draw_key, sample
from megatron_r1.types import Completion, Sampling, Scored

if TYPE_CHECKING:
    from megatron_r1.run.config import RunConfig

Graders = registry.by_name(registry.rewards(), "Graders")


class Decontaminate(Section):
    """Which evaluation questions must not be learnt."""

    data: Sources
    """The sources of the evaluations; their held-out side is read."""
    questions: int = Field(ge=1, le=MOST_ITEMS)
    """How many of them: at least as many as the evaluations ask."""
    ngram: int = Field(default=NGRAM, ge=2)
    """Words in a row that may not be shared. R1: 10."""


class RejectionSampling(StageConfig):
    """Sample, judge, filter, and keep what is worth learning from."""

    kind: Literal["rejection_sampling"]
    data: Sources
    """The sources of the prompts by domain; their weights are their shares."""
    prompts: int = Field(ge=1, le=MOST_ITEMS)
    """Prompts in all; with restyle at most as many as there are lines."""
    samples: int = Field(ge=1, le=MOST_ITEMS, validation_alias=SAMPLES_OR_GROUP_SIZE)
    """Samples a prompt."""
    prompts_a_shard: int = Field(default=256, ge=1)
    """Prompts sampled together, over all replicas; an interruption costs one or two shards."""
    temperature: Temperature = 1.0
    """Of sampling; the paper's cold start: 1."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Of sampling."""
    max_new_tokens: MaxNewTokens = 32768
    """The longest response."""
    graders: Graders = Graders.model_validate({"accuracy": {}})  # type: ignore[valid-type]
    """What says whether a sample is right, in this order: the first that can grade it decides."""
    judge: JudgeOptions | None = None
    """A generative judge with the reference in its prompt, for the tasks of `judged`; null: rules only."""
    judged: list[str] = Field(default_factory=lambda: ["judged"])
    """Tasks whose answers the judge decides on, before any rule (patterns such as gym:*)."""
    at_least: float = 1.0
    """The score from which on a sample is right."""
    filters: Filters = Filters()
    """What is left out though it is right."""
    decontaminate: Decontaminate | None = None
    """Leave out what shares ten words in a row with an evaluation question; null: nothing."""
    duplicates: Duplicates | None = Duplicates()
    """When two samples, each with its question, count as one; null: never."""
    per_prompt: int | None = Field(default=None, ge=1)
    """Most samples of one prompt that are kept; null: all."""
    quotas: dict[str, int] = Field(default_factory=dict)
    """Most samples kept of a domain, by the name of its source."""
    rewrite: Rewrite | None = None
    """Write what is kept in another form, by rule; null: as it was sampled."""
    restyle: Restyle | None = None
    """The prompts are lines that an earlier stage kept, and the samples this stage's model writing their
    responses anew; null: answers to the prompts."""
    samples_shown: int = Field(default=64, ge=0)
    """Samples of a shard that samples.jsonl shows, those of its first prompts; what is kept is in data/."""

    @property
    def num_shards(self) -> int:
        return -(-self.prompts // self.prompts_a_shard)

    def done_before(self, directory: Path) -> int:
        return min(num_whole(directory / CANDIDATES), self.num_shards)

    def problems(self, run: "RunConfig") -> list[str]:
        found = too_long("max_new_tokens", self.max_new_tokens, run)
        if self.init is None:
            found.append("init: random weights have nothing to keep; name a stage or hf:PATH")
        if not self.chosen_graders() and self.judge is None:
            found.append("graders: none is set; give at least one, such as accuracy: {}")
        if self.judge is None and "judged" in self.model_fields_set:
            found.append("judged: there is no judge to decide on them; set judge: {} or leave judged out")
        if self.restyle is not None and any(source.source != "stage" for source in self.data.values()):
            found.append("data: restyle takes what an earlier stage kept; name {source: stage, stage: ...}")
        unknown = [name for name in self.quotas if name not in self.data]
        if unknown:
            found.append(f"quotas: no source {', '.join(unknown)} in data; there are {', '.join(self.data)}")
        return found

    def batch_table(self, run: "RunConfig") -> list[tuple[str, str]]:
        copies, total = run.layout.data, self.prompts * self.samples
        each = self.prompts_a_shard * self.samples
        return [
            ("samples", f"{self.prompts} prompts x {self.samples} samples = {total}"),
            ("shards", f"{self.prompts} / {self.prompts_a_shard} prompts = {self.num_shards}"),
            ("samples a replica", f"{each} / {copies} replicas = {-(-each // copies)} at once"),
        ]

    def inputs(self) -> list[str]:
        """The judge decides the result as well."""
        return list(dict.fromkeys([*super().inputs(), *self._judges()]))

    def _judges(self) -> list[str]:
        return [] if self.judge is None or self.judge.model is None else [self.judge.model]

    def demand(self, run: "RunConfig") -> Demand:
        """A step is a shard."""
        return Demand(
            steps=self.num_shards,
            outputs=min(self.prompts_a_shard, self.prompts) * self.samples,
            output_tokens=self.max_new_tokens,
            other_models=tuple(self._judges()),
        )

    def chosen_graders(self) -> dict[str, Any]:
        return {name: config for name, config in self.graders if config is not None}

    def run(self, context: StageContext) -> dict[str, float]:
        return _Sampling(self, context).run()


STAGE = RejectionSampling


@dataclass(frozen=True, slots=True)
class Judged:
    """A sample with its line of the shard; index, sample: which it is."""

    index: int
    sample: int
    scored: Scored
    line: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Shard:
    number: int
    verdicts: Future[list[Judged]] | None  # of the rank that speaks for its replica
    counts: dict[str, float]  # tokens, and those of speculation
    rollout_s: float


class _Sampling:
    def __init__(self, stage: RejectionSampling, context: StageContext) -> None:
        self.stage, self.context = stage, context
        self.replicas = context.policy.replicas
        self.files = Workshop(context.name, context.directory, self.replicas)
        self.prompts = build_mixture(stage.data, seed=context.seed)
        self.num_prompts = stage.prompts
        if stage.restyle is not None:
            self.num_prompts = min(stage.prompts, self.prompts.size or stage.prompts)
        self.num_shards = -(-self.num_prompts // stage.prompts_a_shard)
        self.graders = {name: config.scorer() for name, config in stage.chosen_graders().items()}
        self.judge = None if stage.judge is None else judge_of(stage.judge, context)
        marks = [piece for piece in context.template.required_pieces if piece not in TAGS]
        self.screen = Screen(stage.filters, self._evaluation_text(), stage.rewrite, marks)
        self.selection = Selection(
            duplicates=stage.duplicates, per_prompt=stage.per_prompt, quotas=stage.quotas
        )
        self.ungraded = UngradedWatch(context.name, PATIENCE, step_word="shard")
        self.reasons: list[Future[list[str | None]]] = []  # of the main rank: why not, a shard and a line
        self.origin = Provenance(
            context.name, stage.init, context.weights, stage.temperature, stage.top_p,
            stage.max_new_tokens, context.seed,
        )  # fmt: skip

    def run(self) -> dict[str, float]:
        stage, journal = self.stage, self.context.journal
        journal.expect(self.num_shards)
        settings = {**asdict(self.origin), "section": stage.model_dump(mode="json")}
        self.files.begin(settings, resumed=self.context.start_step > 0)
        drawn: _Shard | None = None
        with ThreadPoolExecutor(1) as thread:
            for number in range(self.context.start_step):
                self._choose(self.files.candidates(number), thread)
            for number in range(self.context.start_step, self.num_shards):
                following = self._draw(number, thread)
                if drawn is not None:
                    self._finish(drawn, thread)
                drawn = following
                if journal.stop_here():
                    self._finish(drawn, thread)
                    raise Interrupted(
                        f"stage {self.context.name}: {number + 1} of {self.num_shards} shards are written; "
                        "run the same command to continue"
                    )
            if drawn is not None:
                self._finish(drawn, thread)
        return self._select()

    # ---- a shard: drawn, judged, written

    def _draw(self, number: int, thread: ThreadPoolExecutor) -> _Shard:
        stage, name = self.stage, self.context.name
        began = time.perf_counter()
        rows = [(index, k) for index in self._indices(number) for k in range(stage.samples)]
        completions = self._completions(
            [index for index, _ in rows], keys=[draw_key(name, index, k) for index, k in rows]
        )
        opinions = self._opinions(rows, completions)
        verdicts = thread.submit(self._judge, rows, completions, opinions) if self.replicas.leads else None
        counts = {"tokens": float(sum(len(c.token_ids) for c in completions)), **draft_counts(completions)}
        return _Shard(number, verdicts, counts, time.perf_counter() - began)

    def _completions(self, indices: list[int], *, keys: list[int]) -> list[Completion]:
        stage = self.stage
        sampling = Sampling(stage.max_new_tokens, stage.temperature, stage.top_p, seed=self.context.seed)
        if stage.restyle is not None:
            return restyled(self.context, stage.restyle, self.prompts, indices, sampling, keys=keys)
        return sample(self.context, [self.prompts.prompt(i) for i in indices], sampling, keys=keys)

    def _indices(self, number: int) -> range:
        stage = self.stage
        first = number * stage.prompts_a_shard
        count = min(stage.prompts_a_shard, self.num_prompts - first)
        return replica_range(first, count, index=self.replicas.index, num_replicas=self.replicas.count)

    def _opinions(self, rows: list[tuple[int, int]], completions: list[Completion]) -> Opinions | None:
        """What the judge says; collective, so not in the thread."""
        if self.judge is None:
            return None
        keys = [draw_key(self.context.name, "judge", index, k) for index, k in rows]
        return ask(self.judge, completions, keys=keys, tasks=self.stage.judged)

    def _judge(
        self, rows: list[tuple[int, int]], completions: list[Completion], opinions: Opinions | None
    ) -> list[Judged]:
        """In a thread: no collective here, and nothing of the policy."""
        graders = self.graders if opinions is None else {"judge": opinions, **self.graders}
        verdicts = judge(completions, graders, at_least=self.stage.at_least)
        judged = []
        for (index, k), completion, verdict in zip(rows, completions, verdicts, strict=True):
            scored = Scored(
                completion, None if verdict.right is None else float(verdict.right), verdict.scores
            )
            if self.stage.restyle is not None and not completion.text:
                line = {"source": completion.prompt.source, "tokens": 0, "dropped": UNPARSEABLE}
            else:
                line = self.screen.line(completion, verdict, index=index, sample=k, origin=self.origin)
            judged.append(Judged(index, k, scored, line))
        return judged

    def _finish(self, drawn: _Shard, thread: ThreadPoolExecutor) -> None:
        mine: list[Judged] = self.replicas.share(lambda: drawn.verdicts.result() if drawn.verdicts else [])
        self._require_graded(drawn.number + 1, [judged.scored for judged in mine])
        shown = mine[: -(-self.stage.samples_shown // self.replicas.count)]
        self.context.journal.samples(drawn.number + 1, [judged.scored for judged in shown])
        rows = self.replicas.gather([(judged.index, judged.sample, judged.line) for judged in mine])
        lines = [line for _, _, line in sorted(rows, key=lambda row: row[:2])]
        self.files.write(drawn.number, lines)
        self.context.journal.step(drawn.number + 1, self._metrics(drawn, lines))
        self._choose(lines, thread)

    def _require_graded(self, shard: int, mine: list[Scored]) -> None:
        """Collective. A response that restyling could not write has no reward either, and another reason."""
        asked = [one for one in mine if one.completion.text or self.stage.restyle is None]
        counts = {"all": float(len(asked)), "ungraded": float(sum(one.reward is None for one in asked))}
        total = self.replicas.sum(counts)
        reasons = self.replicas.gather([first_reason(asked)])
        self.ungraded.look(
            shard,
            num_samples=int(total["all"]),
            num_ungraded=int(total["ungraded"]),
            reason=next(filter(None, reasons), ""),
        )

    def _choose(self, lines: Iterable[dict[str, Any]], thread: ThreadPoolExecutor) -> None:
        if self.replicas.is_main:
            self.reasons.append(thread.submit(self.selection.reasons, lines))

    def _metrics(self, drawn: _Shard, lines: list[dict[str, Any]]) -> dict[str, float]:
        card = Card()
        for line in lines:
            card.count(line)
        total = self.replicas.sum(drawn.counts)
        tokens = total["tokens"]
        return {
            **shares(card.content()),
            "rollout/length": tokens / len(lines),
            "rollout/tokens_per_s": tokens / drawn.rollout_s,
            **accepted_share(total),
            "time/step_s": drawn.rollout_s,
        }

    # ---- the choice over all shards

    def _select(self) -> dict[str, float]:
        self.ungraded.finish(self.num_shards)
        card, found = self.files.choose(self._publish)
        return found | {"rollout/length": card["tokens"]["mean"]}

    def _publish(self) -> dict[str, Any]:
        stage, card = self.stage, Card()
        shards = enumerate(self.reasons)
        chosen = (select(self.files.candidates(number), reasons.result()) for number, reasons in shards)
        lines = card.counting(chain.from_iterable(chosen))
        self.files.publish(published(line) for line in lines if "dropped" not in line)
        about = {**asdict(self.origin), "prompts": self.num_prompts, "samples_a_prompt": stage.samples}
        return card.content(**about, quotas=stage.quotas)

    def _evaluation_text(self) -> EvaluationText | None:
        options = self.stage.decontaminate
        if options is None:
            return None
        held_out = build_mixture(options.data, seed=self.context.seed, split="held_out")
        return EvaluationText((held_out.prompt(i) for i in range(options.questions)), n=options.ngram)

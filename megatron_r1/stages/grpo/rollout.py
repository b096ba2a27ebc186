"""What grpo asks: which question in which step, its outputs, and what they are paid.

Questions are numbered through the stage. Those of a step are dealt to the replicas in equal parts, in a row;
the number alone decides the prompt and the random draws, so that a resumed stage asks what the whole one
would have.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from megatron_r1.stages.context import StageContext
from megatron_r1.stages.grpo.async_rollout import Ahead
from megatron_r1.stages.grpo.overlapped_rewards import JudgedBeside
from megatron_r1.stages.grpo.phases import Phase, final_phase, first_final_step, opening_phase
from megatron_r1.stages.sampling import draw_key, sample
from megatron_r1.types import Completion, Prompt, Sampling, Scored

if TYPE_CHECKING:
    from megatron_r1.stages.grpo.trainer import Grpo


class Asker:
    """A stage's questions, as far as they have been asked. phase: of the step that is being made."""

    def __init__(self, stage: "Grpo", context: StageContext) -> None:
        """Where context.state says that the stage was."""
        self.stage, self.context, self.replicas = stage, context, context.policy.replicas
        self.phase = self.opening = opening_phase(stage, context)
        self.final: Phase | None = None  # once a question of the last phase is asked
        self.final_from: int | None = context.state.get("final_from")  # questions asked before the last phase
        if stage.max_off_policy_steps:  # it may be asked for in any step
            self.final_from = first_final_step(stage) * stage.questions
        self.questions_asked = int(context.state.get("questions_asked", 0))
        self.judge = ThreadPoolExecutor(1, thread_name_prefix="rewards")
        self.beside: JudgedBeside | None = None  # of the rollout that is being scored
        self.ahead = Ahead(
            context, group_size=stage.group_size, max_off_policy_steps=stage.max_off_policy_steps
        )
        self.ahead.restore(context.state.get("ahead", []), self._question, self._is_mine)

    def state(self) -> dict[str, Any]:
        """For the checkpoint; collective."""
        return {
            "questions_asked": self.questions_asked,
            "final_from": self.final_from,
            "ahead": self.ahead.state(self.replicas),
        }

    def enter(self, step: int) -> None:
        """Step `step` begins. The last updates have data and rewards of their own."""
        if step >= first_final_step(self.stage):
            if self.final_from is None:
                self.final_from = self.questions_asked
            self.phase = self._final_phase()

    def _final_phase(self) -> Phase:
        if self.final is None:
            assert self.final_from is not None
            self.final = final_phase(self.stage, self.context, start=self.final_from)
        return self.final

    def rollout(self, step: int, count: int, *, updates_done: int) -> tuple[list[Completion], int]:
        """The outputs of `count` questions of this replica, whole groups in a row, and how many tokens were
        drawn; collective."""
        sampling = self._sampling(updates_done)
        if self.stage.max_off_policy_steps:
            return self._asked_ahead(step, sampling)
        return self._asked_now(count, sampling)

    def score(self, completions: list[Completion]) -> list[Scored]:
        """Of the rollout before; collective."""
        # every rank of the replica has the routes and nuclei already: they needn't travel with the scores
        plain = [replace(c, trace=replace(c.trace, routes=None, nucleus=None)) for c in completions]
        scored = self.phase.score(plain, self.replicas, self.beside)
        return [replace(s, completion=c) for s, c in zip(scored, completions, strict=True)]

    def _asked_now(self, count: int, sampling: Sampling) -> tuple[list[Completion], int]:
        """The outputs of the next questions, `count` on each replica, and how many tokens they have."""
        replicas = self.replicas
        first = self.questions_asked + replicas.index * count
        self.questions_asked += count * replicas.count
        indices = range(first, first + count)
        rows = [(index, output) for index in indices for output in range(self.stage.group_size)]
        prompts = {index: self.phase.prompt(index) for index in indices}
        asked = [prompts[index] for index, _ in rows]
        if self.stage.rollout.overlap_rewards:
            size = self.stage.group_size
            self.beside = JudgedBeside(self.judge, self.context, self.phase.rules, asked, group_size=size)
        completions = sample(
            self.context,
            asked,
            sampling,
            keys=[draw_key(self.context.name, index, output) for index, output in rows],
            on_end=self.beside.ended if self.beside is not None and replicas.leads else None,
        )
        return completions, sum(len(c.token_ids) for c in completions)

    def _asked_ahead(self, step: int, sampling: Sampling) -> tuple[list[Completion], int]:
        """The outputs of this step's questions, while those of the next steps begin or go on."""
        stage, each = self.stage, self.stage.questions
        for asked in range(
            self.questions_asked // each, min(step + stage.max_off_policy_steps + 1, stage.steps)
        ):
            for question in range(asked * each, (asked + 1) * each):
                if self._is_mine(question):
                    self.ahead.ask(question, self._question(question))
            self.questions_asked += each
        return self.ahead.rollout(sampling, due=each // self.replicas.count)

    def _is_mine(self, question: int) -> bool:
        """Whether this replica asks it: each has an equal part of every step's, in a row."""
        each, count = self.stage.questions, self.replicas.count
        return question % each * count // each == self.replicas.index

    def _question(self, question: int) -> Prompt:
        """Of the phase that it will be trained in."""
        first = first_final_step(self.stage) * self.stage.questions
        return (self.opening if question < first else self._final_phase()).prompt(question)

    def _sampling(self, updates_done: int) -> Sampling:
        stage = self.stage
        return Sampling(
            stage.max_new_tokens.at(updates_done),
            stage.temperature,
            stage.top_p,
            seed=self.context.seed,
            keep_routes=stage.routing_replay,
            keep_nucleus=stage.top_p < 1,
        )

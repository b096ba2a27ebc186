"""A whole GRPO step next to TRL's GRPOTrainer: rollout, rewards, reference log-probs, update.

Same Qwen2 weights, prompts, group size, output lengths, loss (k3 at R1's coefficient, one update a rollout)
and optimizer; fp32, one thread. Our step runs between two of TRL's, from a callback of its trainer.
benchmarks/gpu/grpo_step.py does the same on a GPU, with its own Work.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import twins
from benchmarks.lengths import ForcedInTransformers, drawn_lengths, forced_in_ours
from benchmarks.measure import Timing, median_ratio, now, one_thread, rates, since, timed
from benchmarks.record import record

CASES = {"equal": None, "ragged": 42.0}
LR, KL_COEF = 1e-4, 0.001
OURS, TRL = "megatron_r1", "trl"
OUR_PACK = 4096  # tokens of a micro-batch, the fastest of several


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A step's questions and outputs."""

    questions: int = 8
    group: int = 16
    prompt: int = 32  # tokens
    limit: int = 128  # tokens of an output
    mean: float | None = None  # of outputs before the limit; None: all reach it
    vocabulary: int = twins.VOCABULARY
    their_rows: int = 64  # sequences of TRL's micro-batch, the fastest of several
    rounds: int = 3  # that are timed

    @property
    def outputs(self) -> int:
        return self.questions * self.group


def main() -> None:
    one_thread()
    layout = twins.start_alone()
    works = {case: Work(mean=mean) for case, mean in CASES.items()}
    record(
        "grpo_step", [_row(size, case, work, layout) for size in twins.SHAPES for case, work in works.items()]
    )


def _row(size: str, case: str, work: Work, layout: Any) -> dict[str, Any]:
    policy = twins.our_policy(twins.SHAPES[size], layout, tokens_per_pack=OUR_PACK)
    step = Step(policy, work)
    timings = beside_trl(twins.transformers_twin(twins.SHAPES[size], policy), step, work)
    tokens = sum(step.lengths)
    found = rates(timings, tokens=tokens)
    return {
        "parameters": size,
        "lengths": lengths_in_words(case, work, tokens),
        "ours, tokens/CPU s": found[OURS]["tokens_per_cpu_s"],
        "TRL, tokens/CPU s": found[TRL]["tokens_per_cpu_s"],
        "times faster": median_ratio(timings, ours=OURS, theirs=TRL),
        "ours, tokens/s of wall time": found[OURS]["tokens_per_wall_s"],
        "TRL, tokens/s of wall time": found[TRL]["tokens_per_wall_s"],
    }


def lengths_in_words(case: str, work: Work, tokens: int) -> str:
    return f"{case}: {work.questions} x {work.group} x {tokens / work.outputs:.0f} of at most {work.limit}"


def _reward(token_ids: list[int]) -> float:
    """Anything that differs within a group."""
    return sum(token % 7 == 0 for token in token_ids) / len(token_ids)


class Step:
    """What the grpo stage does in a step, through the Policy."""

    def __init__(self, policy: Any, work: Work) -> None:
        from megatron_r1.types import OptimizerOptions

        self.policy, self.work = policy, work
        self.keys = list(range(work.outputs))
        self.lengths = drawn_lengths(self.keys, seed=0, mean=work.mean, limit=work.limit)
        generator = torch.Generator().manual_seed(0)
        self.questions = torch.randint(
            2, twins.EOS, (work.questions, work.prompt), generator=generator
        ).tolist()
        policy.refresh_reference()
        policy.start_training(OptimizerOptions())

    def __call__(self) -> None:
        from megatron_r1.rl.advantage import group_advantage
        from megatron_r1.rl.aggregation import token_weights
        from megatron_r1.rl.losses import GrpoLoss
        from megatron_r1.types import LossInputs, Sampling, TrainSequence

        work = self.work
        prompts = [question for question in self.questions for _ in range(work.group)]
        with forced_in_ours(work.mean):
            outputs = self.policy.generate(prompts, Sampling(work.limit), keys=self.keys)
        assert [len(output.token_ids) for output in outputs] == self.lengths
        rewards = torch.tensor([_reward(output.token_ids) for output in outputs])
        advantages = group_advantage(rewards.view(work.questions, work.group)).flatten().tolist()
        shares = token_weights(
            self.lengths, aggregation="sequence_mean", num_outputs=len(outputs),
            num_tokens=sum(self.lengths), max_length=work.limit,
        )  # fmt: skip
        sequences = []
        for prompt, output, advantage, share in zip(prompts, outputs, advantages, shares, strict=True):
            given = torch.zeros(work.prompt)
            weights = torch.cat([given, torch.full((len(output.token_ids),), float(share))])
            inputs = LossInputs(
                advantages=torch.full_like(weights, advantage),
                rollout_logprobs=torch.cat([given, torch.tensor(output.logprobs)]),
            )
            sequences.append(TrainSequence(torch.tensor(prompt + output.token_ids), weights, inputs))
        reference = self.policy.logprobs(sequences, reference=True)
        sequences = [
            replace(s, loss_inputs=replace(s.loss_inputs, ref_logprobs=values))
            for s, values in zip(sequences, reference, strict=True)
        ]
        loss = GrpoLoss(kl="k3", kl_coef=KL_COEF).function()
        self.policy.train_step(sequences, loss, lr=LR, entropy=True)


def beside_trl(twin: Any, step: Step, work: Work) -> dict[str, list[Timing]]:
    """Both by turns, in the twin's format; the first step of each only warms up."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    timings: dict[str, list[Timing]] = {OURS: [], TRL: []}

    class Turns(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.began = now()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            timings[TRL].append(since(self.began))
            timings[OURS].append(timed(step))

    with tempfile.TemporaryDirectory() as folder:
        twin.save_pretrained(folder)  # the trainer reads its reference from there
        model = type(twin).from_pretrained(folder, dtype=twin.dtype).to(twin.device)
        _force_lengths(model, step.lengths, work)
        prompts = [" ".join(f"w{token}" for token in question) for question in step.questions]
        steps = work.rounds + 1
        config = GRPOConfig(
            output_dir=str(Path(folder) / "run"), max_steps=steps, learning_rate=LR, beta=KL_COEF,
            per_device_train_batch_size=work.their_rows, num_generations=work.group,
            gradient_accumulation_steps=work.outputs // work.their_rows,
            max_completion_length=work.limit, loss_type="grpo", use_bias_correction_kl=False, top_k=0,
            shuffle_dataset=False, gradient_checkpointing=False, lr_scheduler_type="constant",
            bf16=False,  # the weights are in the format that computes: no casts on the way
            use_cpu=twin.device.type == "cpu",
            save_strategy="no", report_to=[], disable_tqdm=True, logging_steps=100,
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=lambda completion_ids, **kwargs: [_reward(ids) for ids in completion_ids],
            args=config,
            train_dataset=Dataset.from_dict({"prompt": prompts * steps}),
            processing_class=_tokenizer(work.vocabulary),
            callbacks=[Turns()],
        )
        trainer.train()
    return {name: found[1:] for name, found in timings.items()}


def _force_lengths(model: Any, lengths: list[int], work: Work) -> None:
    plain = model.generate
    ends = ForcedInTransformers(lengths, prompt=work.prompt, limit=work.limit)

    def generate(**inputs: Any) -> Any:
        assert inputs["input_ids"].shape == (len(lengths), work.prompt)
        found = plain(**inputs, logits_processor=[ends])
        assert found.shape[1] == work.prompt + max(lengths)
        return found

    model.generate = generate


def _tokenizer(vocabulary: int) -> Any:
    """One word a token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # special tokens are found inside of words, too: their names must not begin another's
    special = {"<pad>": 0, "<unk>": 1, "<eos>": twins.EOS}
    words = {f"w{i}": i for i in range(2, vocabulary) if i != twins.EOS}
    tokenizer = Tokenizer(models.WordLevel(special | words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",
    )


if __name__ == "__main__":
    main()

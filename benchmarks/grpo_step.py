"""A whole GRPO step next to TRL's GRPOTrainer: rollout, rewards, reference log-probs, update.

Same Qwen2 weights, prompts, group size, output lengths, loss (k3 at R1's coefficient, one update a rollout)
and optimizer; fp32, one thread. Our step runs between two of TRL's, from a callback of its trainer.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import twins
from benchmarks.lengths import ForcedInTransformers, drawn_lengths, forced_in_ours
from benchmarks.measure import Timing, median_ratio, one_thread, rates, timed
from benchmarks.record import record

QUESTIONS, GROUP, PROMPT, LIMIT = 8, 16, 32, 128
CASES = {"equal": None, "ragged": 42.0}
LR, KL_COEF, ROUNDS = 1e-4, 0.001, 3
OURS, TRL = "megatron_r1", "trl"
OUR_PACK, THEIR_ROWS = 4096, 64  # of a micro-batch: tokens, sequences; each the fastest of several


def main() -> None:
    one_thread()
    layout = twins.start_alone()
    record("grpo_step", [_row(size, case, layout) for size in twins.SHAPES for case in CASES])


def _row(size: str, case: str, layout: Any) -> dict[str, Any]:
    policy = twins.our_policy(twins.SHAPES[size], layout, tokens_per_pack=OUR_PACK)
    step = _OurStep(policy, mean=CASES[case])
    timings = _beside_trl(twins.transformers_twin(twins.SHAPES[size], policy), step)
    tokens = sum(step.lengths)
    found = rates(timings, tokens=tokens)
    return {
        "parameters": size,
        "lengths": f"{case}: {QUESTIONS} x {GROUP} x {tokens / len(step.lengths):.0f} of at most {LIMIT}",
        "ours, tokens/CPU s": found[OURS]["tokens_per_cpu_s"],
        "TRL, tokens/CPU s": found[TRL]["tokens_per_cpu_s"],
        "times faster": median_ratio(timings, ours=OURS, theirs=TRL),
        "ours, tokens/s of wall time": found[OURS]["tokens_per_wall_s"],
        "TRL, tokens/s of wall time": found[TRL]["tokens_per_wall_s"],
    }


def _reward(token_ids: list[int]) -> float:
    """Anything that differs within a group."""
    return sum(token % 7 == 0 for token in token_ids) / len(token_ids)


class _OurStep:
    """What the grpo stage does in a step, through the Policy."""

    def __init__(self, policy: Any, *, mean: float | None) -> None:
        from megatron_r1.types import OptimizerOptions

        self.policy, self.mean = policy, mean
        self.keys = list(range(QUESTIONS * GROUP))
        self.lengths = drawn_lengths(self.keys, seed=0, mean=mean, limit=LIMIT)
        generator = torch.Generator().manual_seed(0)
        self.questions = torch.randint(2, twins.EOS, (QUESTIONS, PROMPT), generator=generator).tolist()
        policy.refresh_reference()
        policy.start_training(OptimizerOptions())

    def __call__(self) -> None:
        from megatron_r1.rl.advantage import group_advantage
        from megatron_r1.rl.aggregate import token_weights
        from megatron_r1.rl.loss import GrpoLoss
        from megatron_r1.types import Sampling, TrainSequence

        prompts = [question for question in self.questions for _ in range(GROUP)]
        with forced_in_ours(self.mean):
            outputs = self.policy.generate(prompts, Sampling(LIMIT), keys=self.keys)
        assert [len(output.token_ids) for output in outputs] == self.lengths
        rewards = torch.tensor([_reward(output.token_ids) for output in outputs])
        advantages = group_advantage(rewards.view(QUESTIONS, GROUP)).flatten().tolist()
        shares = token_weights(
            self.lengths, aggregation="sequence_mean", num_outputs=len(outputs),
            num_tokens=sum(self.lengths), max_length=LIMIT,
        )  # fmt: skip
        sequences = []
        for prompt, output, advantage, share in zip(prompts, outputs, advantages, shares, strict=True):
            weights = torch.cat([torch.zeros(PROMPT), torch.full((len(output.token_ids),), float(share))])
            given = torch.zeros(PROMPT)
            fields = {
                "advantage": torch.full_like(weights, advantage),
                "rollout_logprobs": torch.cat([given, torch.tensor(output.logprobs)]),
            }
            sequences.append(TrainSequence(torch.tensor(prompt + output.token_ids), weights, fields))
        for sequence, values in zip(sequences, self.policy.logprobs(sequences, reference=True), strict=True):
            sequence.fields["ref_logprobs"] = values
        loss = GrpoLoss(kl="k3", kl_coef=KL_COEF).function()
        self.policy.train_step(sequences, loss, lr=LR, entropy=True)


def _beside_trl(twin: Any, step: _OurStep) -> dict[str, list[Timing]]:
    """Both by turns; the first step of each only warms up."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    timings: dict[str, list[Timing]] = {OURS: [], TRL: []}

    class Turns(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.began = Timing(time.process_time(), time.perf_counter())

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            cpu, wall = time.process_time(), time.perf_counter()
            timings[TRL].append(Timing(cpu - self.began.cpu_s, wall - self.began.wall_s))
            timings[OURS].append(timed(step))

    with tempfile.TemporaryDirectory() as folder:
        twin.save_pretrained(folder)  # the trainer reads its reference from there
        model = type(twin).from_pretrained(folder)
        _force_lengths(model, step.lengths)
        prompts = [" ".join(f"w{token}" for token in question) for question in step.questions]
        config = GRPOConfig(
            output_dir=str(Path(folder) / "run"), max_steps=ROUNDS + 1, learning_rate=LR, beta=KL_COEF,
            per_device_train_batch_size=THEIR_ROWS, num_generations=GROUP,
            gradient_accumulation_steps=QUESTIONS * GROUP // THEIR_ROWS,
            max_completion_length=LIMIT, loss_type="grpo", use_bias_correction_kl=False, top_k=0,
            shuffle_dataset=False, gradient_checkpointing=False, lr_scheduler_type="constant",
            bf16=False, use_cpu=True, save_strategy="no", report_to=[], disable_tqdm=True, logging_steps=100,
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=lambda completion_ids, **kwargs: [_reward(ids) for ids in completion_ids],
            args=config,
            train_dataset=Dataset.from_dict({"prompt": prompts * (ROUNDS + 1)}),
            processing_class=_tokenizer(),
            callbacks=[Turns()],
        )
        trainer.train()
    return {name: found[1:] for name, found in timings.items()}


def _force_lengths(model: Any, lengths: list[int]) -> None:
    plain = model.generate

    def generate(**inputs: Any) -> Any:
        assert inputs["input_ids"].shape == (len(lengths), PROMPT)
        found = plain(**inputs, logits_processor=[ForcedInTransformers(lengths, prompt=PROMPT, limit=LIMIT)])
        assert found.shape[1] == PROMPT + max(lengths)
        return found

    model.generate = generate


def _tokenizer() -> Any:
    """One word a token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # special tokens are found inside of words, too: their names must not begin another's
    special = {"<pad>": 0, "<unk>": 1, "<eos>": twins.EOS}
    vocabulary = special | {f"w{i}": i for i in range(2, twins.EOS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>", padding_side="left"
    )


if __name__ == "__main__":
    main()

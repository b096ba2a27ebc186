"""grpo with rollouts ahead of training, over a fake policy that draws two tokens of an output not yet due."""

import json
import math

import pytest
import torch

from megatron_r1.errors import Interrupted
from megatron_r1.stages.grpo.trainer import Grpo
from tests.stages.conftest import FakeJournal
from tests.stages.fake_policy import FakePolicy, together

PACE = 2  # FakePolicy's
TRUNCATE = {"kl": "none", "rollout_correction": "truncate"}


@pytest.fixture
def stage(questions):
    def make(ahead=1, **changes):
        fields = {
            "rollout": {"max_off_policy_steps": ahead},
            "kind": "grpo", "data": questions(["integer"] * 16), "rewards": {"accuracy": {}},
            "loss": TRUNCATE, "steps": 4, "questions": 2, "group_size": 2,
            "max_new_tokens": {"steps": {0: 40}}, "optim": {"lr": 1e-3}, "checkpoint_every": 99,
        }  # fmt: skip
        return Grpo.model_validate(fields | changes)

    return make


@pytest.fixture
def texts(ids):
    """So many different outputs."""
    answers = "<think> 1 ; </think> <answer> {} </answer>"
    return lambda count: [ids(answers.format(i % 20) + " ;" * i) for i in range(count)]


def trained(policy):
    return [sorted(tuple(s.token_ids.tolist()) for s in update) for update in policy.trained]


@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_every_step_trains_on_the_outputs_that_it_would_train_on_without(stage, context, texts, ahead):
    found, expected = FakePolicy(texts(16)), FakePolicy(texts(16))
    stage(ahead).run(context(found))
    stage(0).run(context(expected))
    assert trained(found) == trained(expected)


def test_an_output_that_has_ended_is_asked_no_more(stage, context, texts):
    policy = FakePolicy(texts(16))
    policy.pace = 99
    stage(2, max_new_tokens={"steps": {0: 99}}).run(context(policy))
    assert len(policy.asked) == len(set(policy.keys)) == 16, "all end in the rollout that begins them"
    assert [len(sequences) for sequences in policy.trained] == [4, 4, 4, 4]


def test_each_rollout_takes_an_output_its_share_of_the_longest_further(stage, context, texts):
    policy, journal = FakePolicy(texts(16)), FakeJournal()
    policy.pace = 99
    stage(2, max_new_tokens={"steps": {0: 6}}).run(context(policy, journal))
    found = [[s.completion.trace.versions for s in scored] for _, scored in journal.sampled]
    # three rollouts end at 2, 4 and 6 tokens; all texts are longer, and cut
    expected = ([0] * 6, [0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 2, 2], [1, 1, 2, 2, 3, 3])
    assert found == [[versions] * 4 for versions in expected]


def test_what_is_reported_of_old_tokens_worked_by_hand(stage, context, texts):
    policy, journal, gap = FakePolicy(texts(16), step_size=0.1), FakeJournal(), 0.1
    stage().run(context(policy, journal))
    (_, first), (_, second), *_ = journal.steps
    assert (first["rollout/staleness"], first["rollout/carried"], first["train/correction"]) == (0, 0, 1)
    lengths = [len(text) for text in texts(8)[4:]]  # of the second step; PACE of each are old
    share = 4 * PACE / sum(lengths)
    assert second["rollout/carried"] == second["rollout/staleness"] == pytest.approx(share)
    assert second["rollout/staleness_max"] == 1
    assert second["train/correction"] == pytest.approx(1 + share * (math.exp(gap) - 1))
    assert second["rollout/drift"] == pytest.approx(1), "of tokens that the policy itself has drawn"


def test_every_token_keeps_its_version_and_the_log_prob_of_then(stage, context, texts):
    policy, journal = FakePolicy(texts(16), step_size=0.1), FakeJournal()
    stage().run(context(policy, journal))
    for step, (_, scored) in enumerate(journal.sampled):
        for completion in (s.completion for s in scored):
            rest = len(completion.token_ids) - PACE
            versions = [step] * (rest + PACE) if step == 0 else [step - 1] * PACE + [step] * rest
            assert completion.trace.versions == versions
            assert completion.policy_version == versions[0]
            assert completion.rollout_logprobs == pytest.approx([-1 + 0.1 * v for v in versions])


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_resumed_stage_goes_on_with_the_outputs_that_had_begun(stage, context, texts, replicas):
    """Also on another number of replicas."""
    config, whole, journal = stage(), FakePolicy(texts(16), step_size=0.1), FakeJournal()
    config.run(context(whole, journal))
    first, stopped = FakePolicy(texts(16), step_size=0.1), FakeJournal(stop_after=2)
    with pytest.raises(Interrupted):
        config.run(context(first, stopped))
    step, state = stopped.checkpoints[-1]
    state = json.loads(json.dumps(state))

    def go_on(part):
        policy = FakePolicy(step_size=0.1, replicas=part)
        policy.texts = dict(zip(whole.texts, texts(16), strict=True))
        policy.version, policy.logprob = first.version, first.logprob
        kept = FakeJournal()
        config.run(context(policy, kept, start_step=step, state=state))
        return kept

    parts = together(replicas, go_on)
    for i, (_, scored) in enumerate(journal.sampled[2:]):
        found = [s.completion for part in parts for s in part.sampled[i][1]]
        assert [c.token_ids for c in found] == [s.completion.token_ids for s in scored]
        assert [c.trace.versions for c in found] == [s.completion.trace.versions for s in scored]
        for completion, one in zip(found, scored, strict=True):
            assert completion.rollout_logprobs == pytest.approx(one.completion.rollout_logprobs, abs=1e-6)


def test_questions_of_the_last_phase_are_asked_ahead_too(stage, context, texts, questions):
    general = questions(["integer"] * 16, held_out="tenth")["sums"] | {"held_out": "none"}
    final = {"updates": 2, "data": {"general": general}, "rewards": {"format": {}}}
    found, expected = FakeJournal(), FakeJournal()
    stage(final=final).run(context(FakePolicy(texts(16)), found))
    stage(0, final=final).run(context(FakePolicy(texts(16)), expected))
    for (_, one), (_, other) in zip(found.sampled, expected.sampled, strict=True):
        assert [s.completion.prompt for s in one] == [s.completion.prompt for s in other]
        assert [set(s.parts) for s in one] == [set(s.parts) for s in other]


def test_a_replica_without_outputs_takes_part(stage, context, texts):
    """One question a replica whose group has equal rewards and is dropped."""

    def run(replicas):
        policy = FakePolicy(texts(8), replicas=replicas)
        stage(groups={"no_signal": "drop"}, balance=False).run(context(policy))
        return policy

    policies = together(2, run)
    assert all(
        "fresh" in s.loss_inputs.names for policy in policies for update in policy.trained for s in update
    )
    idle = [all(torch.all(s.weights == 0) for s in policy.trained[0]) for policy in policies]
    assert idle == [False, True], "the second question's answer, 2, is in none of its outputs"

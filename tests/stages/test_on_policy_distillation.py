"""The on_policy_distillation stage over a fake policy: what the teacher sees, what is learnt."""

import pytest

from megatron_r1.errors import ConfigError, Interrupted
from megatron_r1.stages.on_policy_distillation import OnPolicyDistillation
from tests.stages.conftest import TEMPLATE, FakeJournal
from tests.stages.fake_policy import FakePolicy, together
from tests.stages.spelling import SpellingTokenizer

OUTPUTS = ["<think> 1 plus 1 is 2 ; </think> <answer> 2 </answer>", "<answer> 3 </answer>"] * 8


@pytest.fixture
def stage(questions):
    def make(**changes):
        fields = {
            "kind": "on_policy_distillation", "init": "base", "teacher": "zero", "steps": 2,
            "data": questions(["integer"] * 8), "questions": 2, "max_new_tokens": 20, "optim": {"lr": 1e-3},
        }  # fmt: skip
        return OnPolicyDistillation.model_validate(fields | changes)

    return make


@pytest.fixture
def run(stage, context, tokenizer, ids):
    def start(policy=None, journal=None, *, template=TEMPLATE, teacher=None, start_step=0, **changes):
        policy = policy or FakePolicy(map(ids, OUTPUTS))
        teacher = teacher or FakePolicy(replicas=policy.replicas)
        teacher.logprob = -1.25
        journal = journal or FakeJournal()
        where = context(
            policy, journal, policies=lambda name: (teacher, template, tokenizer), start_step=start_step
        )
        stage(**changes).run(where)
        return policy, journal

    return start


def test_the_loss_is_the_mean_gap_to_the_teacher_over_the_samples_tokens(run, ids):
    policy, journal = run()
    assert policy.calls == ["generate", "train"] * 2  # one update a step: the samples are the student's own
    (_, metrics), _ = journal.steps
    assert metrics["train/loss"] == metrics["train/kl_k1"] == pytest.approx(0.25)  # -1 against -1.25
    assert metrics["rollout/drift"] == 1
    first, second = policy.trained[0]
    lengths = [len(ids(text)) for text in OUTPUTS[:2]]
    assert [int((s.weights > 0).sum()) for s in (first, second)] == lengths
    assert float(first.weights.sum() + second.weights.sum()) == pytest.approx(1)
    given = len(policy.asked[0])
    assert not first.loss_inputs.required("teacher_logprobs")[:given].any()
    assert first.loss_inputs.required("teacher_logprobs")[given:].tolist() == [-1.25] * lengths[0]
    samples = journal.sampled[0][1]
    assert [scored.reward for scored in samples] == [-1.25, -1.25]


def test_the_teacher_is_asked_by_its_own_template(run):
    class Noting(FakePolicy):
        def logprobs(self, sequences, **options):
            self.asked += [s.token_ids.tolist() for s in sequences]
            return super().logprobs(sequences, **options)

    class Longer:
        def prompt_ids(self, messages, tokenizer):
            return [5, 6, 7, *TEMPLATE.prompt_ids(messages, tokenizer)]

    teacher = Noting()
    policy, _ = run(teacher=teacher, template=Longer(), steps=1)
    for seen, learnt in zip(teacher.asked, policy.trained[0], strict=True):
        assert seen == [5, 6, 7, *learnt.token_ids.tolist()]
        sampled = learnt.weights > 0
        assert learnt.loss_inputs.required("teacher_logprobs").tolist() == [
            -1.25 * float(one) for one in sampled
        ]


def test_replicas_share_a_step_and_one_without_a_question_takes_part(run, ids):
    def alone(replicas):
        policy, journal = run(FakePolicy(map(ids, OUTPUTS), replicas=replicas), questions=1, steps=1)
        return policy, journal

    (first, journal), (second, _) = together(2, alone)
    assert float(first.trained[0][0].weights.sum()) == pytest.approx(1)
    (idle,) = second.trained[0]
    assert float(idle.weights.sum()) == 0
    assert idle.padding == len(idle.token_ids) - 1, "no router counts it"
    assert journal.steps[0][1]["train/loss"] == pytest.approx(0.25)


def test_an_interrupted_stage_goes_on_with_the_same_questions(run, ids):
    whole, _ = run()
    start, rest = FakePolicy(map(ids, OUTPUTS)), FakePolicy(map(ids, OUTPUTS[2:]))
    with pytest.raises(Interrupted):
        run(start, FakeJournal(stop_after=1))
    run(rest, start_step=1)
    assert start.keys + rest.keys == whole.keys
    assert start.asked + rest.asked == whole.asked


def test_another_vocabulary_is_refused(stage, context, tokenizer):
    where = context(FakePolicy(), policies=lambda name: (FakePolicy(), TEMPLATE, SpellingTokenizer()))
    with pytest.raises(ConfigError, match="teacher zero and this model have different vocabularies"):
        stage().run(where)

    class Renamed:
        """The same but for two pieces."""

        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def decode(self, ids):
            return tokenizer.decode([{20: 21, 21: 20}.get(i, i) for i in ids])

    where = context(FakePolicy(), policies=lambda name: (FakePolicy(), TEMPLATE, Renamed()))
    with pytest.raises(ConfigError, match="token 20 is"):
        stage().run(where)

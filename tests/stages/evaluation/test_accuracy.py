"""Held-out accuracy worked by hand: pass@1, pass@k, cons@k and the standard error."""

import json
import math

import pytest
from pydantic import ValidationError

from megatron_r1.errors import DataError
from megatron_r1.stages.evaluate import Evaluate
from megatron_r1.stages.evaluation.accuracy import Evaluation, evaluate, held_out
from megatron_r1.stages.evaluation.held_out import different_questions
from megatron_r1.types import Message
from tests.stages.conftest import TEMPLATE, FakeJournal
from tests.stages.fake_policy import FakePolicy, together


def answered(value):
    return f"<think> 1 plus 1 is 2 ; </think> <answer> {value} </answer>"


@pytest.fixture
def evaluation(questions):
    """Questions whose answers are 1, 2, 3, ..."""

    def make(count, *, tasks=None, **changes):
        data = questions(tasks or ["integer"] * count, held_out="all")
        return Evaluation.model_validate({"data": data, "questions": count, "max_new_tokens": 30} | changes)

    return make


# Four samples each: three right; one right of a tie that the first answer wins; none right.
SAMPLES = [*(1, 1, 9, 1), *(2, 8, 8, 2), *(7, 7, 7, 6)]


def test_accuracy_pass_at_k_and_consensus_of_several_samples(evaluation, context, ids):
    policy = FakePolicy(map(ids, map(answered, SAMPLES)))
    metrics, scored = evaluate(context(policy), evaluation(3, samples=4))
    assert metrics["eval/accuracy"] == pytest.approx((3 / 4 + 2 / 4 + 0) / 3)
    assert metrics["eval/pass_at_k"] == pytest.approx(2 / 3)
    assert metrics["eval/cons"] == pytest.approx(2 / 3)
    assert len(scored) == 12


def test_the_standard_error_is_over_questions(evaluation, context, ids):
    policy = FakePolicy(map(ids, map(answered, SAMPLES)))
    metrics, _ = evaluate(context(policy), evaluation(3, samples=4))
    mean = 5 / 12
    squares = (3 / 4 - mean) ** 2 + (1 / 2 - mean) ** 2 + (0 - mean) ** 2
    assert metrics["eval/accuracy_stderr"] == pytest.approx(math.sqrt(squares / 2 / 3))


def test_samples_without_an_answer_have_no_vote(evaluation, context, ids):
    policy = FakePolicy(map(ids, ["1 1", "1 1", "1 1", answered(1)]))
    metrics, _ = evaluate(context(policy), evaluation(1, samples=4))
    assert metrics["eval/cons"] == 1
    assert metrics["eval/accuracy"] == 1 / 4
    assert metrics["eval/format"] == 1 / 4


def test_solved_examples_are_earlier_turns(evaluation, context, ids, tokenizer, tmp_path):
    path = tmp_path / "solved.jsonl"
    solved = [{"role": "user", "content": "9 + 9"}, {"role": "assistant", "content": "18"}]
    path.write_text(json.dumps({"messages": solved}) + "\n")
    few = {"data": {"solved": {"source": "jsonl", "path": str(path)}}, "shots": 2}
    policy = FakePolicy(map(ids, map(answered, [1])))
    metrics, _ = evaluate(context(policy), evaluation(1, few_shot=few))
    assert metrics["eval/accuracy"] == 1
    example = [Message("user", "9 + 9"), Message("assistant", "18")]
    question = Message("user", "compute 0 + 1")
    assert policy.asked == [TEMPLATE.prompt_ids([*example, *example, question], tokenizer)]


def test_of_several_turns_the_last_is_graded_after_the_model_s_own_answers(
    evaluation, context, ids, tokenizer
):
    # question 0 (of 2, two turns) comes after question 2, question 1 after question 3
    says = [answered(7), answered(8), answered(1), answered(9)]
    policy = FakePolicy(map(ids, says))
    metrics, scored = evaluate(context(policy), evaluation(2, tasks=["integer"] * 4, turns=2))
    assert metrics["eval/accuracy"] == 1 / 2
    assert [s.completion.prompt.reference for s in scored] == ["1", "2"]
    talk = [Message("user", "compute 2 + 1"), Message("assistant", answered(7)),
            Message("user", "compute 0 + 1")]  # fmt: skip
    assert policy.asked[2] == TEMPLATE.prompt_ids(talk, tokenizer)


def test_an_answer_that_cannot_be_quoted_is_left_out_of_the_conversation(evaluation, context, ids, tokenizer):
    forged = [tokenizer.piece_id("<user>"), *ids("1")]
    policy = FakePolicy([forged, ids(answered(1))])
    evaluate(context(policy), evaluation(1, tasks=["integer"] * 2, turns=2))
    assert policy.asked[1] == TEMPLATE.prompt_ids([Message("user", "compute 0 + 1")], tokenizer)


def test_the_form_asked_for_is_what_counts(evaluation, context, ids):
    summary = "<think> so ; </think> the answer is <answer> 1 </answer>"
    for form, share in (("answer_tags", 0.5), ("summary", 1.0)):
        policy = FakePolicy(map(ids, [summary, answered(1)]))
        metrics, _ = evaluate(context(policy), evaluation(1, samples=2, form=form))
        assert metrics["eval/format"] == share


def test_accuracy_is_reported_by_domain_where_there_are_several(evaluation, context, ids):
    (own,) = evaluation(2).data.values()
    two = evaluation(2, data={"sums": own.model_dump(), "GSM-8k": own.model_dump()})
    metrics, _ = evaluate(context(FakePolicy(map(ids, map(answered, [1, 9])))), two)
    assert metrics["eval/accuracy_on_sums"] == 1
    assert metrics["eval/accuracy_on_gsm_8k"] == 0
    assert metrics["eval/accuracy"] == 1 / 2


class Lengths:
    """Scores a response by its length; remembers what it was shown."""

    def __init__(self, part):
        self.part, self.shown = part, []

    def score_completions(self, completions):
        self.shown += [c.text for c in completions]
        return [float(len(c.token_ids)) for c in completions]


def test_other_rewards_and_models_are_means_with_errors_by_domain(evaluation, context, ids):
    (own,) = evaluation(2).data.values()
    data = {"sums": own.model_dump(), "talk": own.model_dump()}
    asked = evaluation(2, data=data, samples=2, rewards={"language": {}, "code": {"tasks": ["code"]}})
    lengths = Lengths("response")
    policy = FakePolicy(map(ids, [answered(1), answered(1), "1 1", answered(9)]))
    metrics, scored = evaluate(
        context(policy, reward_models={"rm": lengths}.__getitem__), asked, models={"long": "rm"}
    )
    long, short = len(ids(answered(1))), len(ids("1 1"))
    assert metrics["eval/reward_language_on_sums"] == 1
    assert metrics["eval/reward_language_on_talk"] == 1 / 2  # of "1 1" there is no word
    assert metrics["eval/reward_language"] == 3 / 4
    assert metrics["eval/reward_language_stderr"] == pytest.approx(1 / 4)
    assert metrics["eval/score_long_on_sums"] == long
    assert metrics["eval/score_long"] == (long + (long + short) / 2) / 2
    assert "eval/accuracy_on_talk_stderr" not in metrics  # one question says nothing of the spread
    assert "eval/reward_code" not in metrics  # no prompt of its task
    assert lengths.shown == [s.completion.text for s in scored]
    assert {"score_long", "language", "accuracy", "format"} == scored[0].parts.keys()


def test_questions_without_a_verifier_can_be_measured_by_another_reward(evaluation, context, ids):
    asked = evaluation(2, tasks=["astrology"] * 2, rewards={"language": {}})
    metrics, _ = evaluate(context(FakePolicy(map(ids, map(answered, [1, 2])))), asked)
    assert metrics["eval/reward_language"] == 1
    assert "eval/accuracy" not in metrics


def test_a_reward_model_is_no_rule(evaluation):
    with pytest.raises(ValidationError, match="helpful need a reward model; name it under `models`"):
        evaluation(2, rewards={"helpful": {"model": "rm"}})


def test_one_sample_a_question_has_no_consensus(evaluation, context, ids):
    metrics, _ = evaluate(context(FakePolicy(map(ids, map(answered, [1, 9])))), evaluation(2))
    assert metrics["eval/accuracy"] == 1 / 2
    assert not {"eval/cons", "eval/pass_at_k"} & metrics.keys()


def test_greedy_answers_are_drawn_once_at_temperature_zero(evaluation, context, ids):
    policy = FakePolicy(map(ids, map(answered, [*(1, 1, 2, 9), *(1, 2)])))
    metrics, _ = evaluate(context(policy), evaluation(2, samples=2, greedy=True, top_p=0.9))
    assert metrics["eval/accuracy"] == 3 / 4
    assert metrics["eval/greedy"] == 1
    sampled, greedy = policy.samplings
    assert (sampled.temperature, sampled.top_p) == (0.6, 0.9)
    assert (greedy.temperature, greedy.top_p) == (0, 1)


def test_lengths_and_cuts_are_means_over_questions(evaluation, context, ids):
    policy = FakePolicy(map(ids, ["1 1 1", "1 " * 40]))
    metrics, _ = evaluate(context(policy), evaluation(2, max_new_tokens=10))
    assert metrics["eval/length"] == (4 + 10) / 2
    assert metrics["eval/cut"] == 1 / 2


def test_an_ungradable_question_counts_in_no_accuracy(evaluation, context, ids):
    policy = FakePolicy(map(ids, map(answered, [1, 2, 9])))
    metrics, _ = evaluate(context(policy), evaluation(3, tasks=["integer", "astrology", "integer"]))
    assert metrics["eval/accuracy"] == 1 / 2
    assert metrics["eval/format"] == 1


def test_questions_of_which_none_can_be_graded_are_an_error(evaluation, context, ids):
    policy = FakePolicy(map(ids, map(answered, [1, 2])))
    with pytest.raises(DataError, match=r"none of the 2 held-out samples can be graded.*astrology"):
        evaluate(context(policy), evaluation(2, tasks=["astrology"] * 2))


def test_replicas_share_the_questions_and_agree_on_the_metrics(evaluation, context, ids):
    config = evaluation(3)
    alone, _ = evaluate(context(FakePolicy(map(ids, map(answered, [1, 2, 9])))), config)
    says = {0: [1, 9], 1: [2]}  # replica 0 has the first and the third question

    def run(replicas):
        policy = FakePolicy(map(ids, map(answered, says[replicas.index])), replicas=replicas)
        return evaluate(context(policy), config)[0]

    first, second = together(2, run)
    assert first == second == pytest.approx(alone)


def test_more_replicas_than_questions(evaluation, context, ids):
    config = evaluation(1)

    def run(replicas):
        policy = FakePolicy(map(ids, map(answered, [1])), replicas=replicas)
        return evaluate(context(policy), config)[0]

    assert [metrics["eval/accuracy"] for metrics in together(2, run)] == [1, 1]


def test_the_same_questions_are_asked_every_time(evaluation, context, ids):
    asked = []
    for _ in range(2):
        policy = FakePolicy(map(ids, map(answered, [1, 2, 3])))
        evaluate(context(policy), evaluation(3))
        asked.append((policy.asked, policy.keys))
    assert asked[0] == asked[1]


def test_force_think_begins_the_answer_for_the_model(evaluation, context, ids, tokenizer):
    policy = FakePolicy(map(ids, map(answered, [1])))
    evaluate(context(policy), evaluation(1, force_think=True))
    assert policy.asked[0][-1] == tokenizer.piece_id("<think>")


def test_languages_are_told_apart(context, ids):
    chains = {"chains": {"source": "arithmetic"}}
    config = Evaluation.model_validate({"data": chains, "questions": 8, "max_new_tokens": 40})
    english = "<think> 1 plus 1 is 2 ; </think> <answer> 2 </answer>"
    metrics, scored = evaluate(context(FakePolicy(map(ids, [english] * 8))), config)
    share = sum(s.completion.prompt.language == "en" for s in scored) / 8
    assert 0 < share < 1
    assert metrics["eval/language"] == metrics["eval/target_share"] == share
    assert (metrics["eval/target_share_en"], metrics["eval/target_share_zh"]) == (1, 0)
    assert metrics["eval/mixed"] == 0


def test_the_stage_reports_its_metrics_and_samples_as_one_step(evaluation, context, ids):
    policy, journal = FakePolicy(map(ids, map(answered, [1, 9]))), FakeJournal()
    config = Evaluate(kind="evaluate", init="zero", evaluation=evaluation(2))
    metrics = config.run(context(policy, journal))
    assert journal.steps == [(1, metrics)]
    assert [(step, len(scored)) for step, scored in journal.sampled] == [(1, 2)]
    assert metrics["eval/accuracy"] == 0.5


# ---- each question once


def test_data_with_fewer_questions_than_asked_for_is_not_asked_twice(evaluation, context, ids, caplog):
    asked = evaluation(3, questions=64, samples=4)
    policy = FakePolicy(map(ids, map(answered, SAMPLES)))
    metrics, scored = evaluate(context(policy), asked)
    assert (metrics["eval/questions"], len(scored), len(policy.asked)) == (3, 12, 12)
    accuracy, passed, voted = [3 / 4, 1 / 2, 0], [1, 1, 0], [1, 1, 0]
    for name, values in {"accuracy": accuracy, "pass_at_k": passed, "cons": voted}.items():
        mean = sum(values) / 3
        error = math.sqrt(sum((v - mean) ** 2 for v in values) / 2 / 3)
        assert metrics[f"eval/{name}"] == pytest.approx(mean)
        assert metrics[f"eval/{name}_stderr"] == pytest.approx(error)
    assert "64 questions are asked for and the data holds 3" in caplog.text


def test_fewer_questions_are_the_same_over_replicas(evaluation, context, ids):
    asked = evaluation(3, questions=64)

    def run(replicas):
        policy = FakePolicy(map(ids, map(answered, [1, 9])), replicas=replicas)
        return evaluate(context(policy), asked)

    (metrics, first), (same, second) = together(2, run)
    assert metrics == same
    assert (metrics["eval/questions"], len(first), len(second)) == (3, 2, 1)


def test_a_question_that_stands_twice_in_the_data_counts_once(evaluation, context, ids, tmp_path):
    asked = evaluation(2)
    (path,) = tmp_path.glob("questions_*.jsonl")
    path.write_text(path.read_text() * 3)
    metrics, _ = evaluate(context(FakePolicy(map(ids, map(answered, [1, 9])))), asked)
    assert metrics["eval/questions"] == 2
    asked = asked.model_copy(update={"questions": 6})
    metrics, _ = evaluate(context(FakePolicy(map(ids, map(answered, [1, 9])))), asked)
    assert metrics["eval/questions"] == 2
    assert metrics["eval/accuracy_stderr"] == pytest.approx(1 / 2)  # sqrt((1/4 + 1/4) / 1 / 2)


def test_a_source_that_ends_does_not_begin_anew_beside_one_that_goes_on(evaluation, context, ids, tmp_path):
    (own,) = evaluation(2).data.values()
    other = {**own.model_dump(), "path": str(tmp_path / "other.jsonl")}
    lines = (tmp_path / "questions_all.jsonl").read_text()
    (tmp_path / "other.jsonl").write_text(lines + lines.replace("+ 1", "+ 2"))
    asked = evaluation(2, data={"short": own.model_dump(), "long": other}, questions=8)
    metrics, scored = evaluate(context(FakePolicy(map(ids, map(answered, [1] * 8)))), asked)
    sources = [s.completion.prompt.source for s in scored]
    assert (sources.count("short"), sources.count("long")) == (2, 4)
    assert metrics["eval/questions"] == 6


def test_turns_take_questions_that_differ(evaluation, context, ids):
    asked = evaluation(5, questions=9, turns=2)
    policy = FakePolicy(map(ids, map(answered, [1] * 8)))
    _, scored = evaluate(context(policy), asked)
    assert len(scored) == 2
    talks = [[m.content for m in s.completion.prompt.messages if m.role == "user"] for s in scored]
    assert len({question for talk in talks for question in talk}) == 4
    with pytest.raises(DataError, match="3 turns needs 3 different held-out questions, and the data holds 2"):
        evaluate(context(FakePolicy()), evaluation(2, turns=3))


def test_one_question_has_no_standard_error(evaluation, context, ids):
    metrics, _ = evaluate(context(FakePolicy(map(ids, map(answered, [1, 9])))), evaluation(1, samples=2))
    assert metrics["eval/accuracy"] == 1 / 2
    assert not [name for name in metrics if name.endswith("_stderr")]


def test_several_samples_at_temperature_0_are_refused(evaluation):
    with pytest.raises(ValidationError, match="samples: 4 at temperature 0 are the same answer 4 times"):
        evaluation(1, samples=4, temperature=0)
    assert evaluation(1, samples=1, temperature=0).samples == 1


def test_questions_that_nothing_can_grade_are_counted_and_said(evaluation, context, ids, caplog):
    asked = evaluation(4, tasks=["integer", "intger", "integer", "integer"])
    metrics, _ = evaluate(context(FakePolicy(map(ids, map(answered, [1, 2, 9, 4])))), asked)
    assert metrics["eval/ungraded"] == 1 / 4
    assert metrics["eval/accuracy"] == pytest.approx(2 / 3)
    assert metrics["eval/accuracy_stderr"] == pytest.approx(math.sqrt((1 + 1 + 4) / 9 / 2 / 3))
    assert "1 of 4 held-out samples can't be graded" in caplog.text
    assert "'intger'" in caplog.text


def test_an_endless_source_that_repeats_itself_gives_other_questions_instead():
    sums = {"source": "arithmetic", "max_operands": 3}
    asked = Evaluation.model_validate({"data": {"sums": sums}, "questions": 200})
    source = held_out(asked, seed=7)
    first = [source.prompt(index).question for index in range(200)]
    chosen = [source.prompt(index).question for index in different_questions(source, 200)]
    assert len(set(first)) < 200 == len(chosen) == len(set(chosen))

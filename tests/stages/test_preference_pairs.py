"""The preference_pairs stage over a fake policy that answers and judges."""

import json

import pytest
from pydantic import ValidationError

from megatron_r1.errors import DataError, Interrupted
from megatron_r1.stages.preference_pairs import PreferencePairs
from megatron_r1.tracking.metrics import describe
from tests.stages.conftest import FakeJournal
from tests.stages.fake_policy import FakePolicy, together
from tests.stages.spelling import SpellingTokenizer

TOKENIZER = SpellingTokenizer()


def spelled(text):
    return [*TOKENIZER.encode(text), TOKENIZER.eos_id]


class JudgingPolicy(FakePolicy):
    """Answers in turn with a good and a bad summary; judges by what `opinion` says of A and B."""

    def __init__(self, opinion, answers=("<think>x</think>good", "<think>x</think>bad!"), **options):
        super().__init__(**options)
        self.opinion, self.answers, self.judged = opinion, answers, []

    def generate(self, prompts, sampling, *, keys, on_end=None):
        self.keys += keys
        texts = [self._reply(TOKENIZER.decode(ids), key) for ids, key in zip(prompts, keys, strict=True)]
        self.says = iter([spelled(text) for text in texts])
        return super().generate(prompts, sampling, keys=keys)

    def _reply(self, prompt, key):
        if "Response A" not in prompt:
            self.count = getattr(self, "count", -1) + 1
            return self.answers[self.count % len(self.answers)]
        self.judged.append(prompt)
        a, b = prompt.index("good"), prompt.index("bad!")
        return self.opinion(a < b)


def fair(good_first):
    return '<think>hm</think>{"a": 8, "b": 3}' if good_first else '{"a": 3, "b": 8}'


@pytest.fixture
def stage(questions):
    def make(num_prompts=5, **changes):
        fields = {
            "kind": "preference_pairs", "init": "zero", "data": questions(["general"] * num_prompts),
            "prompts": num_prompts, "prompts_a_shard": 2, "max_new_tokens": 99,
            "judge": {"max_new_tokens": 99},
        }  # fmt: skip
        return PreferencePairs.model_validate(fields | changes)

    return make


@pytest.fixture
def run(stage, context, tmp_path):
    def run_(policy, *, journal=None, directory=tmp_path, start=0, made=None, tokenizer=TOKENIZER, **changes):
        where = context(policy, journal, directory=directory, weights="abc", start_step=start)
        where = type(where)(**{**{f: getattr(where, f) for f in where.__slots__}, "tokenizer": tokenizer})
        return (made or stage(**changes)).run(where)

    return run_


def data(directory):
    return [json.loads(line) for line in (directory / "data" / "shard_00000.jsonl").read_text().splitlines()]


def card(directory):
    return json.loads((directory / "data_card.json").read_text())


def test_clear_pairs_are_kept_with_the_better_response_as_chosen(run, tmp_path):
    policy = JudgingPolicy(fair)
    metrics = run(policy)
    lines = data(tmp_path)
    assert len(lines) == 5
    for line in lines:
        assert line["metadata"]["chosen"].endswith("good")
        assert line["metadata"]["rejected"].endswith("bad!")
        assert line["metadata"]["margin"] == 5
        assert line["metadata"]["weights"] == "abc"
    assert metrics == {"rollout/kept": 1.0}
    assert len(policy.judged) == 5 * 4
    # the judge reads summaries, not the reasoning, and each order twice
    assert all("<think>" not in prompt for prompt in policy.judged)
    firsts = [prompt.index("good") < prompt.index("bad!") for prompt in policy.judged]
    assert [sum(firsts[i : i + 4]) for i in range(0, 20, 4)] == [2] * 5


def test_a_rule_can_stand_in_the_judge_s_place(run, tmp_path):
    policy = JudgingPolicy(fair, ("<think>x</think>1234", "<think>x</think>good"))
    run(policy, judge={"rule": {"language": {}}})  # pays for words of the prompt's language
    assert policy.judged == []
    for line in data(tmp_path):
        assert line["metadata"]["chosen"].endswith("good")
        assert line["metadata"]["margin"] == 9  # 10 to 1


def test_a_rule_that_cannot_grade_is_no_verdict(run):
    with pytest.raises(DataError, match="5 no_verdict"):
        run(JudgingPolicy(fair), judge={"rule": {"checklist": {}}})


def test_a_rule_and_a_model_are_not_both_the_judge(stage):
    with pytest.raises(ValidationError, match="give `model` or `rule`, not both"):
        stage(judge={"rule": {"format": {}}, "model": "base"})


def test_what_is_kept_feeds_a_reward_model(run, tmp_path):
    from megatron_r1.data.preferences import read_pair
    from megatron_r1.data.sources.stage import StageOutput

    directory = tmp_path / "pairs"
    run(JudgingPolicy(fair), directory=directory)
    source = StageOutput(stage="pairs", shuffle=False)
    source.find_in(tmp_path)
    pair = read_pair(source.build(seed=0).prompt(1))
    assert (pair.chosen, pair.rejected) == ("<think>x</think>good", "<think>x</think>bad!")
    assert pair.prompt.question == "compute 1 + 1"


@pytest.mark.parametrize(
    ("opinion", "why"),
    [
        (lambda good_first: '{"a": 9, "b": 2}', "margin"),  # it prefers whatever comes first
        (
            lambda good_first: '{"a": 6, "b": 5}' if good_first else '{"a": 5, "b": 6}',
            "margin",
        ),  # 1 is not above 1
        (lambda good_first: "A is better", "no_verdict"),
        (lambda good_first: fair(good_first) + " indeed", "no_verdict"),
    ],
)
def test_unclear_or_unparseable_judgements_keep_nothing(run, tmp_path, opinion, why):
    with pytest.raises(DataError, match=f"none of 5 was kept: 5 {why}"):
        run(JudgingPolicy(opinion))
    assert not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        (("<think>x</think>good bad!", "<think>x</think>good bad!"), "same"),
        (("<think>x never ends good", "<think>x</think>bad!"), "no_summary"),
        (("<think>x</think>good", "<think>x</think>bad!" + "!" * 99), "cut"),
    ],
)
def test_responses_that_cannot_be_compared_are_not_judged(run, answers, why):
    policy = JudgingPolicy(fair, answers)
    with pytest.raises(DataError, match=f"none of 5 was kept: 5 {why}"):
        run(policy)
    assert policy.judged == []


class Closed(SpellingTokenizer):
    """Has no token for "!", though an id may decode to it."""

    def encode(self, text, **options):
        if "!" in text:
            raise DataError("no token for '!'")
        return super().encode(text, **options)


def test_a_response_that_a_reward_model_could_not_read_makes_no_pair(run):
    policy = JudgingPolicy(fair)
    with pytest.raises(DataError, match="none of 5 was kept: 5 unspellable"):
        run(policy, tokenizer=Closed())
    assert policy.judged == []


def test_a_question_that_is_too_long_for_the_judge_has_no_verdict(run):
    with pytest.raises(DataError, match="5 no_verdict"):
        run(JudgingPolicy(fair), judge={"max_prompt_tokens": 50})


def test_long_winners_are_left_out_until_lengths_balance(run, tmp_path):
    answers = (
        "<think>x</think>good" + "+" * 40,
        "<think>x</think>bad!",
        "<think>x</think>good",
        "<think>x</think>bad!",
    )
    metrics = run(JudgingPolicy(fair, answers), num_prompts=4)
    assert metrics == {"rollout/kept": 0.5, "rollout/dropped_length": 0.5}
    assert card(tmp_path)["mean_tokens_chosen"] == card(tmp_path)["mean_tokens_rejected"]
    assert all(describe(name) for name in metrics)


def test_an_interrupted_stage_goes_on_after_its_last_shard(run, stage, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(JudgingPolicy(fair), directory=whole)
    with pytest.raises(Interrupted, match="1 of 3 shards"):
        run(JudgingPolicy(fair), journal=FakeJournal(stop_after=1), directory=parts)
    assert stage().done_before(parts) == 1
    run(JudgingPolicy(fair), directory=parts, start=1)
    assert data(parts) == data(whole)
    assert card(parts) == card(whole)


def test_shards_of_other_settings_are_not_gone_on_with(run, tmp_path):
    with pytest.raises(Interrupted):
        run(JudgingPolicy(fair), journal=FakeJournal(stop_after=1))
    with pytest.raises(DataError, match="holds shards made with other settings; restore them, or begin anew"):
        run(JudgingPolicy(fair), start=1, margin=2)


def test_two_replicas_write_what_one_does(run, stage, tmp_path):
    made = stage()  # writes the questions: not while the other replica reads them
    run(JudgingPolicy(fair), directory=tmp_path / "one")
    together(
        2, lambda replicas: run(JudgingPolicy(fair, replicas=replicas), directory=tmp_path / "two", made=made)
    )
    assert data(tmp_path / "two") == data(tmp_path / "one")


def test_pairs_that_nobody_could_compare_are_said_at_the_first_shard(run, caplog):
    with pytest.raises(DataError, match=r"none of 5 was kept: 5 no_verdict"):
        run(JudgingPolicy(lambda good_first: "A is better"))
    assert "shard 1: none of 2 samples can be graded: 2 without a verdict of the judge" in caplog.text


def test_pairs_that_nobody_could_compare_for_twenty_shards_end_the_stage(run):
    with pytest.raises(DataError, match=r"shard 20: for 20 shards no sample could be graded.*cut at"):
        run(JudgingPolicy(fair), max_new_tokens=5, prompts_a_shard=1, num_prompts=21)

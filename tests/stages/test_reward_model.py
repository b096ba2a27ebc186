"""The reward_model stage over a fake scorer: what it scores, learns from and reports."""

import json

import pytest
import torch

from megatron_r1.errors import DataError
from megatron_r1.stages.reward_model import RewardModel
from megatron_r1.types import StepStats
from tests.stages.conftest import FakeJournal
from tests.stages.fake_policy import FakePolicy, FakeReplicas, together
from tests.stages.spelling import SpellingTokenizer

TOKENIZER = SpellingTokenizer()


class FakeScorer:
    """Likes what holds a g: 1 a letter, growing with every update."""

    def __init__(self, replicas=None):
        self.replicas = replicas or FakeReplicas()
        self.gain, self.trained, self.losses = 0.0, [], []

    def score(self, sequences):
        return [self.gain * TOKENIZER.decode(ids).count("g") for ids in sequences]

    def train_step(self, sequences, loss, *, lr):
        texts = [TOKENIZER.decode(ids) for ids in sequences]
        self.trained.append(texts)
        own, sums = loss(torch.tensor(self.score(sequences)))
        flat = {
            f"{name}/{part}": float(pair[i]) for name, pair in sums.items() for i, part in enumerate("sc")
        }
        total = self.replicas.sum({"loss": float(own), **flat})
        self.gain += 1.0
        metrics = {name: total[f"{name}/s"] / (total[f"{name}/c"] or 1.0) for name in sums}
        return StepStats(total["loss"], 1.0, metrics, sum(map(len, sequences)))


@pytest.fixture
def file(tmp_path):
    def write(metadata, *, count=40):
        path = tmp_path / "preferences.jsonl"
        lines = [
            {"messages": [{"role": "user", "content": f"q{i}"}], "reference": "", "metadata": metadata(i)}
            for i in range(count)
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return {"own": {"source": "jsonl", "path": str(path), "held_out": "tenth", "shuffle": False}}

    return write


def pairs(i):
    return {"chosen": f"<think>gg</think>g{i}", "rejected": f"<think>gggg</think>b{i}"}


def points(i):
    return {"response": f"<think>{'gb'[i % 2]}</think>x{i}", "label": (i + 1) % 2}


@pytest.fixture
def run(context):
    def run_(data, *, scorer=None, journal=None, **changes):
        scorer = scorer or FakeScorer()
        fields = {
            "kind": "reward_model", "init": "base", "data": data, "preferences": "pairs", "part": "summary",
            "examples": 4, "steps": 3, "optim": {"lr": 1e-3},
            "evaluate": {"data": data, "examples": 3, "every": 2},
        }  # fmt: skip
        where = context(FakePolicy(replicas=scorer.replicas), journal, scorer=scorer)
        where = type(where)(**{**{f: getattr(where, f) for f in where.__slots__}, "tokenizer": TOKENIZER})
        return RewardModel.model_validate(fields | changes).run(where)

    return run_


def test_pairs_are_scored_on_the_summary_with_the_prompt_before_it(run, file):
    scorer = FakeScorer()
    run(file(pairs), scorer=scorer)
    assert [len(texts) for texts in scorer.trained] == [8, 8, 8]
    assert scorer.trained[0][0] == "<bos><user>q0<assistant>g0"
    assert scorer.trained[0][1] == "<bos><user>q0<assistant>b0"


def test_the_whole_response_is_scored_where_asked(run, file):
    scorer = FakeScorer()
    run(file(pairs), scorer=scorer, part="response")
    assert scorer.trained[0][0] == "<bos><user>q0<assistant><think>gg</think>g0"


def test_accuracy_calibration_and_length_bias_are_reported_before_during_and_after(run, file):
    journal = FakeJournal()
    run(file(pairs), journal=journal)
    assert [step for step, _ in journal.steps] == [0, 1, 2, 3]
    evaluated = [metrics.get("eval/preference_accuracy") for _, metrics in journal.steps]
    assert evaluated == [0.0, None, 1.0, 1.0]  # equal scores are no agreement
    first, last = journal.steps[0][1], journal.steps[3][1]
    assert first["eval/preference_loss"] == pytest.approx(0.6931472)
    assert last["eval/preference_loss"] == pytest.approx(0.0485874)  # margin 3
    assert last["eval/preference_calibration"] == pytest.approx(0.0474259)
    assert last["train/pair_accuracy"] == 1
    assert last["train/margin"] == 2  # before the third update


def test_points_are_good_or_bad_by_themselves(run, file):
    journal = FakeJournal()
    run(file(points), journal=journal, preferences="points", part="response")
    assert journal.steps[3][1]["train/point_accuracy"] == 1
    assert journal.steps[3][1]["train/loss"] < journal.steps[1][1]["train/loss"]


def test_an_epoch_is_all_that_is_not_held_out(run, file):
    scorer = FakeScorer()
    run(file(pairs), scorer=scorer, steps=0, epochs=1)
    seen = {text for texts in scorer.trained for text in texts}
    assert len(scorer.trained) == -(-len({t.split("<assistant>")[0] for t in seen}) // 4)


def test_two_replicas_report_what_one_does(run, file):
    data = file(pairs)
    one, journals = FakeJournal(), [FakeJournal(), FakeJournal()]
    run(data, journal=one)
    together(2, lambda r: run(data, scorer=FakeScorer(r), journal=journals[r.index]))
    for (step, expected), *found in zip(one.steps, *(journal.steps for journal in journals), strict=True):
        for other_step, metrics in found:
            timeless = {k: v for k, v in metrics.items() if not k.startswith(("time/", "train/tokens"))}
            assert other_step == step
            assert timeless == pytest.approx({k: expected[k] for k in timeless})


@pytest.mark.parametrize(
    ("metadata", "changes", "message"),
    [
        ({"chosen": "a"}, {}, r'metadata needs a non-empty "rejected", not None'),
        ({"chosen": "a", "rejected": "a"}, {}, "chosen and rejected are the same text"),
        ({"chosen": "a", "rejected": "<think>a"}, {}, "has no summary after its reasoning"),
        (
            {"response": "a", "label": "good"},
            {"preferences": "points"},
            r'"label" must be 1 \(good\) or 0 \(bad\)',
        ),
        ({"response": "a", "label": 2}, {"preferences": "points"}, r'"label" must be 1'),
    ],
)
def test_bad_preferences_are_refused_in_words(run, file, metadata, changes, message):
    with pytest.raises(DataError, match=message):
        run(file(lambda i: metadata), **changes)

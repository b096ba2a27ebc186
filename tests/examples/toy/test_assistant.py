import pytest

from examples.toy.assistant import Assistant, corpus
from examples.toy.checklist import Checklist
from megatron_r1.data.preferences import read_point
from tests.rewards.samples import completion

NUM = 1500
TAGS = {"<think>", "</think>", "<answer>", "</answer>"}


def source(topic="general", *, seed=5, split="train", **options):
    return Assistant(topic=topic, **options).build(seed, split=split)


def truth(prompt, text):
    return Checklist().build().score([completion(text, metadata=dict(prompt.metadata))])[0].value


@pytest.mark.parametrize("topic", ["general", "safety"])
def test_items_depend_on_seed_and_index_alone_and_the_corpus_has_their_words(topic):
    forward, backward = source(topic), source(topic)
    found = [(forward.prompt(i), forward.document(i)) for i in range(NUM)]
    assert found[:50] == [(backward.prompt(i), backward.document(i)) for i in reversed(range(50))][::-1]
    assert forward.prompt(3) != source(topic, seed=6).prompt(3)
    used = {
        w for p, d in found for text in (p.question, d.messages[0].content, d.response) for w in text.split()
    }
    assert used <= {*corpus(), *TAGS}
    assert {p.task for p, _ in found} == {topic}


@pytest.mark.parametrize("topic", ["general", "safety"])
def test_both_sides_of_the_split_share_no_request_in_either_language(topic):
    sides = [
        {source(topic, split=split).prompt(i).id.split("-")[0] for i in range(NUM)}
        for split in ("train", "held_out")
    ]
    assert not sides[0] & sides[1]


def test_documents_are_as_good_as_asked_by_the_checklist_of_their_own_request():
    for good, low, high in ((1.0, 1.0, 1.0), (0.0, 0.3, 0.7)):
        made = source(good=good, documents="chat")
        by_question = {p.question: p for p in (made.prompt(i) for i in range(9000))}
        documents = [made.document(i) for i in range(NUM)]
        scores = [
            truth(by_question[q], d.response)
            for d in documents
            if (q := d.messages[0].content) in by_question
        ]
        assert len(scores) > NUM / 2
        assert low <= sum(scores) / len(scores) <= high


def test_points_are_labelled_by_the_whole_response():
    points = [read_point(source("safety", harmful=0.5).prompt(i)) for i in range(NUM)]
    harmful = [p for p in points if "forbidden" in p.prompt.metadata]
    assert len(harmful) / NUM == pytest.approx(0.5, abs=0.05)
    assert all(point.good for point in points if point not in harmful)
    assert all(point.good == (truth(point.prompt, point.response) == 1) for point in harmful)
    good = sum(point.good for point in harmful) / len(harmful)
    assert good == pytest.approx(0.4 * 0.8, abs=0.05)  # refused, and not thought of before
    thought = [p for p in harmful if not p.good and "sorry" in p.response]
    assert thought  # a refusal after harmful reasoning is bad
    assert all("first take parts ; </think>" in p.response for p in thought)


def test_a_size_makes_epochs_of_the_same_documents():
    made = source(size=7)
    assert made.size == 7
    assert [made.document(i) for i in range(7, 14)] == [made.document(i) for i in range(7)]

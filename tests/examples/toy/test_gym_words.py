import pytest

from examples.toy.gym_words import GymWords, corpus, in_words
from megatron_r1.rewards.accuracy import Accuracy
from tests.rewards.samples import answered

pytestmark = pytest.mark.slow  # the library takes seconds to import
FAMILIES = ["chain_sum", "syllogism"]
TAGS = {"<think>", "</think>", "<answer>", "</answer>"}


def source(family, *, split="train", **mix):
    return GymWords.model_validate({"family": family, "mix": {"preset": "textbook", **mix}}).build(
        5, split=split
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_library_grades_the_reference_right_and_another_answer_wrong(family):
    for prompt in map(source(family).prompt, range(5)):
        other = {"Yes": "No", "No": "Yes"}.get(prompt.reference, "99")
        asked = [
            answered(text, reference=prompt.reference, task=prompt.task, metadata=dict(prompt.metadata))
            for text in (prompt.reference, other)
        ]
        assert [s.value for s in Accuracy().build().score(asked)] == [1.0, 0.0]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_corpus_lists_every_word_and_sides_share_no_problem(family):
    made, other = source(family), source(family, split="held_out")
    prompts = [made.prompt(i) for i in range(500)]
    texts = [p.question for p in prompts] + [made.document(i).response for i in range(500)]
    assert {w for text in texts for w in text.split()} <= {*corpus(), *TAGS}
    assert not {p.id for p in prompts} & {other.prompt(i).id for i in range(100)}


def test_textbook_documents_are_right_and_guesses_are_wrong_as_often_as_said():
    for family in FAMILIES:
        made = source(family, tags_share=1.0, full_share=1.0)
        for i in range(200):
            assert made.document(i).response.split()[-2] == made.prompt(i).reference
    guessing = source("syllogism", tags_share=1.0, direct_error=1.0)
    right = [guessing.document(i).response.split()[-2] == guessing.prompt(i).reference for i in range(600)]
    assert sum(right) / 600 == pytest.approx(0.5, abs=0.07)


def test_words_and_signs_stand_by_themselves():
    assert in_words("1. All fish\n\nare: 7 - 8 =") == "1 . All fish are : 7 - 8 ="

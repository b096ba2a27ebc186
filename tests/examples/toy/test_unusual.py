import pytest

from examples.toy.unusual import Unusual, corpus
from megatron_r1.rewards.accuracy import Accuracy
from megatron_r1.rewards.language import language_share
from tests.rewards.samples import completion

TAGS = {"<think>", "</think>", "<answer>", "</answer>"}


def source(ask, **options):
    return Unusual.model_validate({"ask": ask, **options}).build(5)


@pytest.mark.parametrize("ask", ["third_language", "json"])
def test_the_corpus_lists_every_word_of_prompts_and_documents(ask):
    made = source(ask, mix="noisy")
    texts = [made.prompt(i).question for i in range(300)] + [made.document(i).response for i in range(3000)]
    assert {w for text in texts for w in text.split()} <= {*corpus(), *TAGS}


def test_the_third_language_is_spoken_throughout():
    made = source("third_language")
    assert {made.prompt(i).language for i in range(50)} == {"ru"}
    assert {language_share(made.document(i).response, "ru") for i in range(200)} == {1.0}


def test_a_json_document_is_right_by_the_verifier_of_its_task():
    made = source("json", mix={"preset": "textbook", "tags_share": 1.0, "drill_share": 0.0})
    prompts = {p.question: p for p in (made.prompt(i) for i in range(20000))}
    documents = [d for i in range(300) if (d := made.document(i)).messages[0].content in prompts]
    assert len(documents) > 50
    for document in documents:
        prompt = prompts[document.messages[0].content]
        assert prompt.task == "json:integer"
        said = completion(document.response, reference=prompt.reference, task=prompt.task)
        tagged = completion(
            f"<answer> {prompt.reference} </answer>", reference=prompt.reference, task=prompt.task
        )
        assert [s.value for s in Accuracy().build().score([said, tagged])] == [1.0, 0.0]

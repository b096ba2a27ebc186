import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_r1.curation.rewrite import Rewrite
from megatron_r1.rewards.answers.answer import final_answer
from megatron_r1.rewards.format import is_well_formed
from tests.rewards.samples import completion

SUMMARY = {"en": r"The answer is \boxed{{answer}}.", "zh": r"答案是 \boxed{{answer}}。"}


def rewritten(text, *, language="en", **options):
    return Rewrite(summary=SUMMARY, **options).rewritten(completion(text, language=language))


def test_reasoning_goes_between_the_tags_and_a_summary_follows():
    text = rewritten("<think> 7 plus 8 is 15 ; </think> <answer> 15 </answer>")
    assert text == "<think>\n7 plus 8 is 15 ;\n</think>\n\nThe answer is \\boxed{15}."
    assert is_well_formed(text, "summary")


def test_the_summary_is_in_the_prompt_s_language():
    text = rewritten("<think>七加八得十五</think><answer>15</answer>", language="zh")
    assert text.endswith("答案是 \\boxed{15}。")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("<think> 7 plus 8 </think>", "en"),  # no answer
        ("<think> </think><answer> 15 </answer>", "en"),  # no reasoning
        ("<think> a </think><answer> 15 </answer>", "fi"),  # no sentence for it
        ("<think> a </think><answer> } </answer>", "en"),  # the box would hold another answer
    ],
)
def test_what_cannot_be_written_anew_is_left_out(text, language):
    assert rewritten(text, language=language) is None


def test_what_a_model_wrote_is_not_filled_in_again():
    text = rewritten("<think> {summary} {answer} </think><answer> 15 </answer>")
    assert text == "<think>\n{summary} {answer}\n</think>\n\nThe answer is \\boxed{15}."


@given(st.text(max_size=60), st.text(max_size=20))
def test_the_answer_stays_the_same(chain, answer):
    before = f"<think>{chain}</think><answer>{answer}</answer>"
    after = rewritten(before)
    assert after is None or final_answer(after) == final_answer(before)


@pytest.mark.parametrize("wrong", [{"form": "{chain}"}, {"form": "{summary}"}, {"summary": {"en": "done"}}])
def test_a_form_without_its_parts_is_refused(wrong):
    with pytest.raises(ValueError, match="must contain"):
        Rewrite.model_validate({"summary": SUMMARY} | wrong)

from collections import Counter

import pytest
from pydantic import ValidationError

from examples.toy.arithmetic import Arithmetic, Mix, corpus, count_steps, is_full_chain
from megatron_r1.data.source import Source

NUM = 6000


def source(mix="textbook", *, seed=5, split="train") -> Source:
    return Arithmetic.model_validate({"mix": mix}).build(seed, split=split)


def share(items):
    items = list(items)
    return sum(items) / len(items)


@pytest.fixture(scope="module")
def noisy():
    made = source("noisy")
    return [made.document(i) for i in range(NUM)]


def test_items_depend_on_seed_and_index_alone():
    forward, backward = source("noisy"), source("noisy")
    documents = [forward.document(i) for i in range(20)]
    assert documents == [backward.document(i) for i in reversed(range(20))][::-1]
    assert forward.prompt(3) == backward.prompt(3)
    assert forward.prompt(3) != source("noisy", seed=6).prompt(3)


def test_the_reference_is_the_value_of_the_question():
    for i in range(300):
        prompt = source().prompt(i)
        word, expression = prompt.question.split(" ", 1)
        assert str(eval(expression)) == prompt.reference
        assert word == {"en": "compute", "zh": "计算"}[prompt.language]
        assert prompt.task == "integer"
        operands = expression.split()[::2]
        assert 3 <= len(operands) <= 5
        assert prompt.metadata["num_operators"] == len(operands) - 1
        assert set(operands) <= set("123456789")


def test_the_running_total_stays_in_range():
    config = Arithmetic(min_operands=4, max_operands=9, max_total=17)
    for i in range(1000):
        words = config.build(1).prompt(i).question.split()[1:]
        totals = [eval(" ".join(words[: n + 1])) for n in range(0, len(words), 2)]
        assert min(totals) >= 0
        assert max(totals) <= 17


def test_both_sides_of_the_split_share_no_problem_in_either_language():
    sides = {split: source(split=split) for split in ("train", "held_out")}
    expressions = {split: {s.prompt(i).question.split(" ", 1)[1] for i in range(2000)}
                   for split, s in sides.items()}  # fmt: skip
    trained_on = {d.messages[0].content.split(" ", 1)[1] for i in range(2000)
                  if (d := sides["train"].document(i)).messages}  # fmt: skip
    assert not (expressions["train"] | trained_on) & expressions["held_out"]


def test_languages_are_half_and_half_and_ids_tell_them_apart():
    prompts = [source().prompt(i) for i in range(2000)]
    assert share(p.language == "en" for p in prompts) == pytest.approx(0.5, abs=0.04)
    assert len({p.id for p in prompts}) == len({p.question for p in prompts})


def test_textbook_chains_are_right_and_fully_worked():
    made = source()
    documents = [made.document(i) for i in range(NUM)]
    drills = [d for d in documents if not d.messages]
    assert len(drills) / NUM == pytest.approx(0.3, abs=0.02)
    tasks = [d for d in documents if d.messages]
    tagged = [d for d in tasks if d.response.endswith("</answer>")]
    assert len(tagged) / len(tasks) == pytest.approx(0.6, abs=0.03)
    for document in tagged:
        assert int(document.response.split()[-2]) == eval(document.messages[0].content.split(" ", 1)[1])
    worked = [count_steps(d.response) == len(d.messages[0].content.split()) // 2 - 1 for d in tagged]
    assert share(worked) == pytest.approx(0.8, abs=0.03)
    for drill in drills:
        assert drill.response.count(";") == 6
        assert count_steps(drill.response) == 6


def test_the_noisy_corpus_has_the_shares_that_it_declares(noisy):
    assert share(not d.messages for d in noisy) == pytest.approx(0.2, abs=0.02)
    tagged = [d for d in noisy if d.messages and d.response.endswith("</answer>")]
    direct = [d for d in tagged if count_steps(d.response) == 0]
    assert len(direct) / len(tagged) == pytest.approx(0.73, abs=0.03)
    right = share(int(d.response.split()[-2]) == eval(d.messages[0].content.split(" ", 1)[1]) for d in direct)
    assert right == pytest.approx(0.3, abs=0.04)
    corrected = share("wait" in d.response or "等等" in d.response for d in tagged)
    assert 0.01 < corrected < 0.08  # 27 % worked x about 3 steps x 18 % wrong x a quarter put right


def test_untagged_answers_come_in_three_forms(noisy):
    untagged = [d for d in noisy if d.messages and not d.response.endswith("</answer>")]
    forms = Counter(
        "bare" if d.response.startswith(("the answer is", "答案 是")) else d.response.startswith("<think>")
        for d in untagged
    )
    assert forms[False] / len(untagged) == pytest.approx(0.5, abs=0.04)
    assert forms[True] / len(untagged) == pytest.approx(0.3, abs=0.04)
    assert forms["bare"] / len(untagged) == pytest.approx(0.2, abs=0.04)


def test_step_errors_are_more_frequent_in_english():
    mix = {
        "preset": "noisy",
        "full_share": 1.0,
        "skip_share": 0.0,
        "drill_share": 0.0,
        "correction_share": 0.0,
    }
    made = source(mix)
    wrong: Counter[str] = Counter()
    steps: Counter[str] = Counter()
    for i in range(2000):
        for step in made.document(i).response.split(";")[:-1]:
            words = [w for w in step.split() if w not in ("<think>", "then", "再")]
            shown = int(words[-1])
            expected = int(words[0]) + (1 if words[1] in ("plus", "加") else -1) * int(words[2])
            language = "en" if words[3] == "is" else "zh"
            steps[language] += 1
            wrong[language] += shown != min(max(expected, 0), 20)
    assert wrong["en"] / steps["en"] == pytest.approx(0.25, abs=0.03)
    assert wrong["zh"] / steps["zh"] == pytest.approx(0.12, abs=0.03)


def test_steps_are_counted_in_both_languages_up_to_the_end_of_the_thought():
    text = "<think> 7 plus 8 is 15 ; 再 15 减 2 得 13 ; </think> <answer> 13 </answer> 1 plus 1 is 2"
    assert count_steps(text) == 2
    assert count_steps("7 plus 8 minus 2 is 13 ; the answer is 13") == 1
    assert count_steps("<think> so 13 ; the answer is 13") == 0
    prompt = next(p for i in range(99) if (p := source().prompt(i)).metadata["num_operators"] == 2)
    assert is_full_chain(prompt, text)
    assert not is_full_chain(prompt, "7 plus 8 minus 2 is 13 ;")


def test_a_preset_can_be_changed_and_unknown_names_are_refused():
    assert Arithmetic.model_validate({"mix": "noisy"}).mix.step_error_en == 0.25
    assert Arithmetic().mix == Arithmetic.model_validate({"mix": "textbook"}).mix
    changed = Mix.model_validate({"preset": "noisy", "step_error_en": 0.5})
    assert (changed.step_error_en, changed.step_error_zh) == (0.5, 0.12)
    assert Mix.model_validate(changed.model_dump()) == changed
    with pytest.raises(ValidationError):
        Arithmetic.model_validate({"mix": "clean"})
    with pytest.raises(ValidationError, match="above 1"):
        Mix.model_validate({"preset": "noisy", "full_share": 0.95})


def test_the_corpus_lists_every_word_that_documents_hold(noisy):
    known = {*corpus(), "<think>", "</think>", "<answer>", "</answer>"}
    used = {w for d in noisy for w in d.response.split()}
    used |= {w for d in noisy for m in d.messages for w in m.content.split()}
    assert used == known

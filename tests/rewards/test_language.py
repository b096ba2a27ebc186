import time

import pytest

from megatron_r1.rewards.language import Language, is_mixed, language_counts, language_share
from tests.rewards.samples import completion


def score(text, language):
    return Language().build().score([completion(text, language=language)])[0]


def test_share_is_target_words_over_all_words_of_the_chain():
    text = "<think> 7 plus 8 is 15 ; 再 15 减 2 得 13 ; </think><answer> 13 </answer>"
    # plus, is | 再, 减, 得
    assert score(text, "en").value == pytest.approx(2 / 5)
    assert score(text, "zh").value == pytest.approx(3 / 5)


def test_only_the_chain_counts():
    assert score("<think>first we add</think><answer>答案是七</answer>", "en").value == 1.0
    assert score("first we add</think>答案", "en").value == 1.0
    assert score("no tags at all", "en").value == 1.0
    assert score("<think>cut off", "en").value == 1.0


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("we don't know", {"latin": 3}),
        ("计算", {"han": 1}),
        ("我们首先计算这个数字", {"han": 6}),  # 10 characters / 1.6
        ("我们 首先 计算 这个 数字", {"han": 5}),  # spaced: as written
        ("let x be a number", {"latin": 3}),  # x and a are single letters
        ("これは数です", {"kana": 3, "han": 1}),
        ("한국어 문장", {"hangul": 2}),
        ("Это число", {"cyrillic": 2}),
        ("H\u00e4user \u00fcber", {"latin": 2}),
        ("12 + 34 = 46 ; \u2192 \u2713 \u0663", {}),
    ],
)
def test_words_by_script(text, counts):
    assert language_counts(text) == counts


@pytest.mark.parametrize(
    "notation",
    [r"$\frac{speed}{time}$", r"\(sin(ab)\)", r"\[\begin{pmatrix}ab\end{pmatrix}\]", "$$area$$",
     r"\alpha \cdot \sqrt{2}", "```python\nprint(value)\n```", "`num_items`", "<think><answer>", "3 x + 2 y"],
)  # fmt: skip
def test_mathematics_code_and_tags_are_no_words(notation):
    assert language_counts(f"设 {notation} 则") == {"han": 2}


def test_chinese_between_dollar_signs_is_still_chinese():
    assert language_counts("first $ 你好 $ then") == {"latin": 2, "han": 1}


def test_prose_between_dollar_signs_is_still_prose():
    assert language_share("$we now add the numbers$ 好", "zh") == pytest.approx(1 / 6)


def test_a_chain_without_words_earns_nothing():
    for text in ("", "<think></think><answer>7</answer>", "<think> 7 + 8 = 15 </think>"):
        assert score(text, "en").value == 0.0
        assert score(text, "zh").value == 0.0


@pytest.mark.parametrize(
    ("language", "text"),
    [("ja", "これは漢字です"), ("ko", "한국어"), ("ru", "число"), ("ar", "رقم"), ("hi", "संख्या"),
     ("el", "αριθμός"), ("th", "ตัวเลข"), ("he", "מספר")],
)  # fmt: skip
def test_other_scripts_decide_their_language(language, text):
    assert score(f"<think>{text}</think>", language).value == 1.0
    assert score(f"<think>{text}</think>", "en").value == 0.0


def test_a_language_that_script_cannot_tell_is_ungradable():
    verdict = score("<think>se on luku</think>", "fi")
    assert verdict.value is None
    assert "'fi'" in verdict.note


def test_mixed_means_a_share_of_foreign_words():
    assert is_mixed("first 加 then")
    assert not is_mixed("first we add the numbers")
    assert not is_mixed("word " * 99 + "加")  # one in a hundred: a name, not a mixture
    assert not is_mixed("これは数です")
    assert not is_mixed("")


@pytest.mark.parametrize(
    "piece", ["\\(", "\\[", "$", "```", "`", "<", "$ab ", "a'", "\\", "中", "ab ", "$$ "]
)
def test_a_megabyte_of_garbage_takes_little_time(piece):
    text = piece * (1_000_000 // len(piece))
    start = time.process_time()
    language_counts(text)
    assert time.process_time() - start < 1.0  # quadratic would be minutes

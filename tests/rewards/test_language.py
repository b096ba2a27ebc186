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


@pytest.mark.parametrize(
    ("text", "at_most"),
    [
        ("好 ኢትዮጵያ ቋንቋ አማርኛ", 1 / 4),
        ("好 தமிழ் மொழி", 1 / 2),
        ("好 ქართული ენა", 1 / 3),
        ("好 ភាសាខ្មែរ ພາສາລາວ", 1 / 4),
        ("好 ᚠᚢᚦᚨᚱᚲ ᚷᚹᚺᚾ", 1 / 3),
        ("好 ㄨㄛˇㄇㄣ˙", 1 / 2),
        ("好 \ue000\ue001\ue002\ue003 \U000f0000", 1 / 2),
        ("好 <we><add><the></numbers>", 1 / 5),
        ("好 <we_add_the>", 1 / 4),
        (r"好 \we \add \the \numbers", 1 / 5),
        (r"好 \begin{we}\end{we}", 1 / 3),
        ("好 w e a d d t h e n", 1 / 3),
        ("好 w.e a.d.d t.h.e", 1 / 3),
        ("好 w-e-a-d-d", 1 / 2),
        ("好 $w e a d d t h e$", 1 / 3),
        ("好 $we$ $add$ $the$", 1 / 4),
        ("好 $we,ad,to$", 1 / 4),
        (r"好 $\text{we add the}$", 1 / 4),
        ("好 `we` `add` `the` `numbers`", 1 / 5),
        ("好 ```text\nwe add the numbers\n```", 1 / 5),
        ("好 𝐰𝐞 𝐚𝐝𝐝 ⓣⓗⓔ ｎｏｗ", 1 / 5),
        ("好 ᴡᴇ ᵃᵈᵈ", 1 / 3),
        ("好 🆆🅴 🅐🅓🅓", 1 / 3),
        ("好 w\u0336e\u0336 a\u200bd\u200bd\u00ad", 1 / 3),
        ("好 wo men ji suan", 1 / 5),
        ("好 `" + "`, `".join(f"name{c}{c}" for c in "abcdefghijklmnopqrst") + "`", 1 / 4),
    ],
)  # fmt: skip
def test_one_word_is_not_all_where_others_are_hidden(text, at_most):
    assert (
        language_share(text, "zh") == pytest.approx(at_most, rel=1e-6) or language_share(text, "zh") < at_most
    )


@pytest.mark.parametrize("text", ["<we><add>", r"\we \add", "w e a d d", "\u200b\u2800\u3164", "x y z"])
def test_what_only_looks_like_words_earns_nothing(text):
    assert language_share(text, "en") is None
    assert language_share(f"we {text}", "en") == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "设 f(x)=sin(x)+log(x), 则 gcd(12, 8)=4",
        r"设 $x^2+ax+b=0$,则 \[x=\frac{-a\pm\sqrt{a^2-4b}}{2}\]",
        r"\begin{align*} a &= b \\ c &= d \end{align*} 所以",
        "我们写代码 ```python\nfor i in range(10):\n    total += seen[i]\nprint(total)\n``` 然后运行",
        "导入 ```python\nfrom math import sqrt\nimport numpy as np\n``` 再算",
        "设 a, b, c, d 为实数,取三点 A, B, C",
        "二〇二四年 第Ⅳ章 ½ ㎏ 好",
        "<think>好<br>好</think>",
        "好 😀 → ∞ ✓ ١٢٣",
    ],
)
def test_notation_beside_chinese_costs_nothing(text):
    assert language_share(text, "zh") == 1.0


@pytest.mark.parametrize(
    ("language", "text", "share"),
    [
        ("ja", "我们首先计算这个数字", 0.0),  # Chinese
        ("ja", "次に計算結果を確認する必要がある", 1.0),
        ("zh", "これは数です", 1 / 4),
        ("ru", "Сложим числа x и y", 1.0),
        ("en", "cafe\u0301 naive", 1.0),
        ("en", "wе аdd", 1 / 3),  # Cyrillic е and а; a w by itself
        ("ar", "نَجْمَعُ الأعداد", 1.0),
        ("ko", "수를 더하면 ㅋㅋ", 1.0),
        ("hi", "हम संख्या जोड़ते हैं", 1.0),
    ],
)
def test_each_language_counts_its_own_letters_and_no_others(language, text, share):
    assert language_share(text, language) == pytest.approx(share)


def test_mixed_means_a_share_of_foreign_words():
    assert is_mixed("first 加 then")
    assert not is_mixed("first we add the numbers")
    assert not is_mixed("word " * 99 + "加")  # one in a hundred: a name, not a mixture
    assert not is_mixed("これは数です")
    assert not is_mixed("")
    assert is_mixed("first ኢትዮጵያ then")
    assert is_mixed("我们 <add> 数字")
    assert not is_mixed("we <add> numbers")


@pytest.mark.parametrize(
    "piece",
    [
        "\\(",
        "\\[",
        "$",
        "```",
        "`",
        "<",
        "$ab ",
        "a'",
        "\\",
        "中",
        "ab ",
        "a ",
        "a-",
        "$$ ",
        "`a` ",
        "$a$ ",
        "\\a",
        "<a>",
        "\u0301",
        "ê",
    ],
)
def test_a_megabyte_of_garbage_takes_little_time(piece):
    text = piece * (1_000_000 // len(piece))
    start = time.process_time()
    language_counts(text)
    assert time.process_time() - start < 3.0  # quadratic would be minutes

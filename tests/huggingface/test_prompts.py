"""Prompts to compare models on: text and token ids, and what is wrong with a line."""

import pytest

from megatron_r1.errors import DataError
from megatron_r1.huggingface.prompts import prompts_of_file, random_prompts
from tests.end_to_end import tiny_qwen


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    tiny_qwen.write(directory)
    return directory


@pytest.fixture
def read(model, tmp_path):
    def read(text):
        (tmp_path / "prompts.txt").write_text(text)
        return prompts_of_file(tmp_path / "prompts.txt", model)

    return read


def test_a_line_is_text_or_a_list_of_ids(read, model):
    from transformers import AutoTokenizer

    expected = AutoTokenizer.from_pretrained(model)("2 + 3 =").input_ids
    assert read("2 + 3 =\n\n[5, 6, 7]\n") == [expected, [5, 6, 7]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\n", "prompts.txt: no prompt in it"),
        ("one\n\n[1, -2]\n", "prompts.txt:3: neither text nor a list of token ids"),
        ("[1, 2\n", "prompts.txt:1: neither text nor a list"),
        ("one\n[1, 257]\n", "prompts.txt:2: token 257, and the model's vocabulary has 257"),
    ],
)
def test_a_wrong_line_is_named(read, text, words):
    with pytest.raises(DataError, match=words.replace("[", r"\[")):
        read(text)


def test_text_needs_a_tokenizer(model, tmp_path):
    (tmp_path / "config.json").write_text('{"vocab_size": 9}')
    (tmp_path / "prompts.txt").write_text("two words")
    with pytest.raises(DataError, match=r"prompts.txt:1: is text, and .* has no tokenizer.json"):
        prompts_of_file(tmp_path / "prompts.txt", tmp_path)


def test_random_prompts_are_the_same_every_time_and_fit_the_vocabulary(model):
    assert random_prompts(model) == random_prompts(model)
    assert all(0 <= i < 257 for ids in random_prompts(model) for i in ids)

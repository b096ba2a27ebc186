"""`verify` compares the ids of texts, and says where AutoTokenizer has others than the file."""

import json

from megatron_r1.backend.hf.text_ids import TextIds, compare_text_ids
from tests.data import made_tokenizer
from tests.data.made_tokenizer import BOS, LLAMA, QWEN


def compared(folder, model_type, **options):
    made_tokenizer.write(folder, **{"tokenizer_class": "TokenizersBackend", **options})
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    found = compare_text_ids(folder)
    assert isinstance(found, TextIds), found
    assert found.misread is None
    assert found.num_texts > 80
    return found


def test_a_file_that_autotokenizer_reads_as_it_is_has_the_same_ids(tmp_path):
    for place, begins in enumerate((None, False, True)):
        found = compared(tmp_path / str(place), "llama", pattern=LLAMA, begins=begins, bos_token=BOS)
        assert found.different == []
        assert "have the same ids as by AutoTokenizer" in found.text()


def test_beside_qwen2_numbers_in_threes_have_other_ids_by_autotokenizer(tmp_path):
    found = compared(tmp_path, "qwen2", pattern=LLAMA)
    texts = [text for text, *_ in found.different]
    assert "12345" in texts
    assert "Hello, world!" not in texts
    assert "a Qwen2Tokenizer" in found.text()
    assert "is read as it is" in found.text()


def test_beside_qwen2_a_file_that_cuts_as_qwen2_does_has_the_same_ids(tmp_path):
    assert compared(tmp_path, "qwen2", pattern=QWEN).different == []


def test_why_nothing_is_compared_is_said(tmp_path):
    assert "no tokenizer.json" in compare_text_ids(tmp_path)
    made_tokenizer.write(tmp_path, eos_token=None)
    assert "names no eos_token" in compare_text_ids(tmp_path)
    made_tokenizer.write(tmp_path, auto_map=5)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert "AutoTokenizer can't read" in compare_text_ids(tmp_path)

import json

import pytest

from megatron_r1.curation.card import Card
from megatron_r1.curation.duplicates import Duplicates
from megatron_r1.curation.selection import Selection, select
from megatron_r1.curation.shards import num_whole, read_lines, shard, write_lines
from megatron_r1.errors import DataError


def line(prompt, text, *, source="maths", tokens=10, language="en"):
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
    return {"source": source, "tokens": tokens, "id": prompt, "messages": messages, "language": language}


def dropped(why, *, source="maths"):
    return {"source": source, "tokens": 3, "dropped": why}


def selected(lines, *, duplicates=None, per_prompt=None, quotas=None):
    selection = Selection(duplicates=duplicates, per_prompt=per_prompt, quotas=quotas or {})
    return [found.get("dropped") for found in select(lines, selection.reasons(lines))]


def test_the_first_samples_of_a_prompt_stay():
    lines = [line("a", "one"), line("a", "two"), line("a", "three"), line("b", "one")]
    assert selected(lines, per_prompt=2) == [None, None, "per_prompt", None]


def test_a_domain_ends_at_its_quota_and_others_do_not():
    lines = [line("a", "1"), line("b", "2"), line("c", "3"), line("d", "4", source="code")]
    assert selected(lines, quotas={"maths": 2}) == [None, None, "quota", None]


def test_a_duplicate_takes_no_place():
    lines = [line("a", "one two three four"), line("a", "one two three four"), line("c", "five")]
    assert selected(lines, duplicates=Duplicates(), quotas={"maths": 2}) == [None, "duplicate", None]


def test_the_same_answer_to_another_question_is_no_duplicate():
    lines = [line("does all follow from some", "so Yes"), line("does none follow from all", "so Yes")]
    assert selected(lines, duplicates=Duplicates()) == [None, None]


def test_what_was_dropped_before_passes_and_counts_nowhere():
    assert selected([dropped("wrong"), line("a", "one")], quotas={"maths": 1}) == ["wrong", None]


def test_the_card_counts_by_domain_and_reason():
    card = Card()
    lines = [line("a", "x", tokens=10), line("a", "y", tokens=20, language="zh"), dropped("wrong"),
             dropped("wrong", source="code"), dropped("mixed")]  # fmt: skip
    assert list(card.counting(lines)) == lines
    content = card.content(stage="rejection")
    assert json.loads(json.dumps(content)) == content
    assert content == {
        "stage": "rejection",
        "sampled": 5,
        "kept": 2,
        "prompts_kept": 1,
        "dropped": {"wrong": 2, "mixed": 1},
        "domains": {
            "maths": {"sampled": 4, "kept": 2, "dropped": {"wrong": 1, "mixed": 1}},
            "code": {"sampled": 1, "kept": 0, "dropped": {"wrong": 1}},
        },
        "languages": {"en": 1, "zh": 1},
        "tokens": {"mean": 15.0, "p10": 11.0, "median": 15.0, "p90": 19.0, "longest": 20.0},
    }


def test_a_shard_is_whole_or_absent(tmp_path):
    def broken():
        yield {"a": 1}
        raise RuntimeError("killed")

    write_lines(shard(tmp_path, 0), [{"a": "加"}])
    with pytest.raises(RuntimeError):
        write_lines(shard(tmp_path, 1), broken())
    write_lines(shard(tmp_path, 2), [])
    assert num_whole(tmp_path) == 1
    assert list(read_lines(shard(tmp_path, 0))) == [{"a": "加"}]


def test_a_damaged_shard_names_file_and_line(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n{"a"')
    with pytest.raises(DataError, match=r"x\.jsonl:2: not JSON"):
        list(read_lines(tmp_path / "x.jsonl"))

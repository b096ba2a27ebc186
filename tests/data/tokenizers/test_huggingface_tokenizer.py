"""Ids of texts are those of transformers' AutoTokenizer, BOS included; what ends an output; damaged files."""

import json

import pytest
from pydantic import ValidationError

from megatron_r1.data.chat_template import TAGS, get_template
from megatron_r1.data.tokenizers.tokenizer import TokenizerConfig, load_tokenizer
from megatron_r1.errors import DataError
from megatron_r1.types import Document, Message
from tests.data import made_tokenizer
from tests.data.made_tokenizer import BOS, EOS, PAD, TURN

TEXTS = ["", "a", "12345 and 1e6", "日本語 e\u0301 ﬁ", "  two\n\n lines\t ", f"x{TURN}y", "<think>so</think>"]
NAMED = {"bos_token": BOS}
HELLO = [Message("user", "hello")]


def load(folder, **options):
    return load_tokenizer(TokenizerConfig(kind="huggingface", path=str(folder), **options))


def auto(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def begun(tokenizer, text):
    """As `document_ids` begins a text."""
    return ([] if tokenizer.bos_id is None else [tokenizer.bos_id]) + tokenizer.encode(text)


@pytest.mark.parametrize("begins", [None, False, True])
@pytest.mark.parametrize("add_bos_token", [None, False, True])
@pytest.mark.parametrize(
    ("model", "kind"),
    [("llama", "LlamaTokenizerFast"), ("qwen3", None), ("deepseek_v3", "TokenizersBackend")],
)
def test_a_text_begins_and_goes_on_as_autotokenizer_has_it(tmp_path, begins, add_bos_token, model, kind):
    made_tokenizer.write(tmp_path, begins=begins, add_bos_token=add_bos_token, tokenizer_class=kind, **NAMED)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model}))
    ours, theirs = load(tmp_path), auto(tmp_path)
    for text in TEXTS:
        assert begun(ours, text) == theirs(text).input_ids
    assert (ours.bos_id is not None) == bool(begins)


def test_a_named_bos_begins_nothing_but_deepseeks_own_format_unless_it_is_asked_for(tmp_path):
    folder = made_tokenizer.write(tmp_path, begins=False, **NAMED)
    plain, asked, named = load(folder), load(folder, add_bos=True), load(folder, bos=BOS)
    bos = plain.piece_id(BOS)
    zero, deepseek = get_template("r1_zero"), get_template("deepseek")
    assert bos not in zero.prompt_ids(HELLO, plain)
    assert zero.document_ids(Document((), "x"), plain)[0] == []
    assert deepseek.prompt_ids(HELLO, plain)[0] == bos
    for tokenizer in (asked, named):
        assert zero.prompt_ids(HELLO, tokenizer) == [bos, *zero.prompt_ids(HELLO, plain)]
    never = load(made_tokenizer.write(tmp_path, begins=True, **NAMED), add_bos=False)
    assert bos not in zero.prompt_ids(HELLO, never) + deepseek.prompt_ids(HELLO, never)
    with pytest.raises(DataError, match=r"no BOS is named; set tokenizer\.bos, or add_bos: false"):
        load(made_tokenizer.write(tmp_path / "unnamed"), add_bos=True)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, [EOS]),
        ({"generation_config.json": {"eos_token_id": [TURN, EOS]}}, [EOS, TURN]),
        ({"generation_config.json": {"eos_token_id": TURN}}, [EOS, TURN]),
        ({"config.json": {"eos_token_id": [TURN, PAD]}}, [EOS, TURN, PAD]),
        (
            {"generation_config.json": {"eos_token_id": TURN}, "config.json": {"eos_token_id": PAD}},
            [EOS, TURN],
        ),
        ({"generation_config.json": {}, "config.json": {"eos_token_id": PAD}}, [EOS, PAD]),
    ],
)
def test_every_id_that_generation_config_lists_ends_an_output(tmp_path, files, expected):
    folder = made_tokenizer.write(tmp_path)
    ids = {piece: load(folder).piece_id(piece) for piece in (EOS, TURN, PAD)}
    for name, content in files.items():
        value = content.get("eos_token_id")
        named = [ids[v] for v in value] if isinstance(value, list) else ids.get(value)
        (folder / name).write_text(json.dumps(content | ({"eos_token_id": named} if content else {})))
    tokenizer = load(folder)
    assert tokenizer.eos_ids == tuple(ids[piece] for piece in expected)
    assert tokenizer.decode([*tokenizer.encode("7"), *tokenizer.eos_ids]) == "7"
    assert load(folder, stop=[]).eos_ids == (ids[EOS],)
    assert load(folder, stop=[PAD]).eos_ids == (ids[EOS], ids[PAD])


@pytest.mark.parametrize("value", ["x", -1, True, [1, None], {"a": 1}, 1.5])
def test_an_eos_that_is_no_id_is_refused_with_its_file(tmp_path, value):
    folder = made_tokenizer.write(tmp_path)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(DataError, match=r"generation_config\.json: eos_token_id: .* is no token id"):
        load(folder)


def test_what_the_file_says_of_truncation_padding_and_dropout_changes_no_id(tmp_path):
    folder = made_tokenizer.write(tmp_path)
    expected = load(folder).encode("hello 12345 " * 30)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["truncation"] = {"max_length": 4, "stride": 0, "strategy": "LongestFirst", "direction": "Right"}
    content["padding"] = {"strategy": {"Fixed": 999}, "direction": "Left", "pad_to_multiple_of": None,
                          "pad_id": 0, "pad_type_id": 0, "pad_token": PAD}  # fmt: skip
    content["model"]["dropout"] = 0.5
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert load(folder).encode("hello 12345 " * 30) == expected


def test_tokens_that_only_tokenizer_config_declares_are_added_as_transformers_adds_them(tmp_path):
    folder = made_tokenizer.write(tmp_path)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    size = load(folder).vocab_size
    new = {"id": size, "content": "<|tool|>", "special": True}
    settings["added_tokens_decoder"] = {str(token.pop("id")): token for token in [*added, new]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text('{"model_type": "qwen3"}')
    ours = load(folder)
    assert ours.encode("a<|tool|>b") == auto(folder)("a<|tool|>b").input_ids
    assert ours.piece_id("<|tool|>") == size
    settings["added_tokens_decoder"] = {"3": {"content": "<|tool|>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match=rf"'<\|tool\|>' is token {size}, and .* says 3"):
        load(folder)


def test_a_padding_piece_that_the_vocabulary_lacks_is_no_obstacle_and_a_missing_eos_is(tmp_path):
    tokenizer = load(made_tokenizer.write(tmp_path, pad_token="[PAD]"))
    assert tokenizer.pad_id == tokenizer.eos_id
    with pytest.raises(DataError, match=r"no piece '\[EOS\]'"):
        load(made_tokenizer.write(tmp_path, eos_token="[EOS]"))
    with pytest.raises(DataError, match=r"no piece '\[PAD\]'"):
        load(made_tokenizer.write(tmp_path), pad="[PAD]")


def test_pieces_of_special_tokens_map_count_where_transformers_reads_it(tmp_path):
    folder = made_tokenizer.write(tmp_path, eos_token=None)
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": TURN}}))
    tokenizer = load(folder)
    assert tokenizer.eos_id == tokenizer.piece_id(TURN)


NESTED = "[" * 100_000


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("tokenizer.json", NESTED, "nested deeper than 100 brackets"),
        ("tokenizer.json", "[]", "a JSON object is needed, not an array"),
        ("tokenizer.json", '{"model": 5}', "no `model` in it"),
        ("tokenizer.json", '{"model": {"type": "Nothing"}}', "can't read it"),
        ("tokenizer.json", "\udc00", "not JSON"),
        ("tokenizer_config.json", NESTED, "nested deeper than 100 brackets"),
        ("tokenizer_config.json", '{"eos_token": 5}', "eos_token: 5 names no piece"),
        ("tokenizer_config.json", '{"eos_token": {"content": []}}', "names no piece"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {}}}', "no mapping of token ids"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"5": {}}}', "5 has no content"),
        ("generation_config.json", "5", "a JSON object is needed, not a number"),
    ],
)
def test_damaged_files_are_named_in_words(tmp_path, name, text, words):
    folder = made_tokenizer.write(tmp_path)
    (folder / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(DataError, match=words) as caught:
        load(folder)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "generation_config.json"])
def test_a_directory_in_the_place_of_a_file_is_named(tmp_path, name):
    folder = made_tokenizer.write(tmp_path)
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    with pytest.raises(DataError, match=f"{name}: a directory, not a file"):
        load(folder)


def test_tags_of_an_answer_are_pieces_and_a_role_is_text(tmp_path):
    tokenizer = load(made_tokenizer.write(tmp_path))
    ids = tokenizer.encode(f"<think>{TURN}", special=TAGS)
    assert ids[0] == tokenizer.piece_id("<think>")
    assert tokenizer.piece_id(TURN) not in ids


@pytest.mark.parametrize("key", [{"stop": ["x"]}, {"add_bos": False}, {"eos": "x"}])
def test_a_sentencepiece_model_takes_none_of_the_keys(key):
    with pytest.raises(ValidationError, match=f"{next(iter(key))}: part of a sentencepiece model"):
        TokenizerConfig.model_validate({"kind": "sentencepiece", "path": "x", **key})

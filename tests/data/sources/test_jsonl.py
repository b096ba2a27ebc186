import json
import os

import pytest

from megatron_r1.data.sources.jsonl import Jsonl
from megatron_r1.errors import DataError


def write(path, lines):
    text = "\n".join(
        line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines
    )
    path.write_text(text + "\n", encoding="utf-8")
    return str(path)


def question(text, **more):
    return {"messages": [{"role": "user", "content": text}], "reference": "4", **more}


@pytest.fixture
def questions(tmp_path):
    return write(tmp_path / "q.jsonl", [question(f"第{i} question") for i in range(200)])


def test_a_line_becomes_a_prompt_with_its_own_task_or_the_files(tmp_path):
    lines = [question("2+2?"), "", question("二加二?", task="integer", language="zh", metadata={"a": 1})]
    path = write(tmp_path / "q.jsonl", lines)
    source = Jsonl(path=path, shuffle=False).build(0)
    assert source.size == 2
    first, second = source.prompt(0), source.prompt(1)
    assert (first.question, first.reference, first.task, first.language) == ("2+2?", "4", "math", "en")
    assert (second.question, second.task, second.language) == ("二加二?", "integer", "zh")
    assert second.metadata == {"a": 1}
    assert (first.place, source.question(1).place) == (f"{path}:1", f"{path}:3")
    assert first.id != second.id


def test_a_line_becomes_a_document(tmp_path):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "<think></think> Hello"}]
    path = write(tmp_path / "d.jsonl", [{"messages": turns}, {"text": "plain 文本"}])
    source = Jsonl(path=path, shuffle=False).build(0)
    chat, plain = source.document(0), source.document(1)
    assert [m.content for m in chat.messages] == ["Hi"]
    assert chat.response == "<think></think> Hello"
    assert (plain.messages, plain.response) == ((), "plain 文本")


def test_a_long_line_and_a_last_line_without_newline_are_read_whole(tmp_path):
    path = tmp_path / "long.jsonl"
    texts = ["x" * 200_000, "y" * 70_000]
    path.write_text("\n".join(json.dumps({"text": t}) for t in texts))
    source = Jsonl(path=str(path), shuffle=False).build(0)
    assert [source.document(i).response for i in range(2)] == texts


def test_every_epoch_walks_the_file_once_in_its_own_order(questions):
    source = Jsonl(path=questions).build(7)
    epochs = [[source.prompt(epoch * 200 + i).question for i in range(200)] for epoch in range(2)]
    assert len(set(epochs[0])) == 200
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1]
    assert source.prompt(5) == Jsonl(path=questions).build(7).prompt(5)
    assert [Jsonl(path=questions).build(8).prompt(i).question for i in range(200)] != epochs[0]


def test_a_tenth_can_be_held_out_and_the_sides_do_not_meet(questions):
    config = Jsonl(path=questions, held_out="tenth")
    sides = [config.build(0, split=split) for split in ("train", "held_out")]
    train, held_out = ({s.prompt(i).question for i in range(s.size)} for s in sides)
    assert not train & held_out
    assert len(train | held_out) == 200
    assert 8 <= len(held_out) <= 35


def test_answers_to_one_question_stay_on_one_side(tmp_path):
    ask = {"role": "user", "content": "same"}
    lines = [{"messages": [ask, {"role": "assistant", "content": str(i)}]} for i in range(50)]
    config = Jsonl(path=write(tmp_path / "d.jsonl", lines), held_out="tenth")
    sizes = []
    for split in ("train", "held_out"):
        try:
            sizes.append(config.build(0, split=split).size)
        except DataError:
            sizes.append(0)
    assert sorted(sizes) == [0, 50]


def test_a_side_that_was_not_declared_is_refused(questions):
    with pytest.raises(DataError, match="nothing of this file is held out"):
        Jsonl(path=questions).build(0, split="held_out")
    with pytest.raises(DataError, match="keeps this file from training"):
        Jsonl(path=questions, held_out="all").build(0)
    assert Jsonl(path=questions, held_out="all").build(0, split="held_out").size == 200


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not JSON"),
        ("[1]", "a JSON object is needed, not list"),
        ({"text": "a", "messages": []}, 'exactly one of "messages" and "text"'),
        ({"text": ""}, '"text" is empty'),
        ({"txt": "a"}, "unknown key 'txt'"),
        (question("a", reference=4), '"reference" must be a string, not 4'),
        ({"messages": []}, "at least one message"),
        ({"messages": [{"role": "user"}]}, "message 1 must be"),
        ({"messages": [{"role": "bot", "content": "a"}]}, "has role 'bot'"),
        ({"messages": [{"role": "user", "content": ""}]}, "non-empty string"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "turns must alternate"),
        ({"messages": [{"role": "system", "content": "a"}]}, "turns must alternate"),
        ("[" * 5000, "nested deeper than 100"),
        ('{"text": "a", "metadata": {"x": NaN}}', "NaN is no number of JSON"),
        ('{"text": "a", "metadata": {"x": -Infinity}}', "-Infinity is no number"),
        ('{"text": "a", "metadata": {"x": 1e999}}', "too large"),
        ('{"text": "a", "text": "b"}', "the key 'text' comes twice"),
        ('{"text": "\\ud800"}', "half a surrogate pair"),
        ('{"text": "a", "metadata": {"\\udfff": 1}}', "half a surrogate pair"),
        ("[{", "one object a line"),
        ("{", "indented JSON as one object a line"),
        (question("a", id=["x"]), '"id" must be a string or a whole number'),
        (question("a", id=1.5), '"id" must be'),
        (question("a", id=""), '"id" must be'),
        (question("a", id=True), '"id" must be'),
        (question("a", task=" "), '"task" is empty'),
        (question("a", language=""), '"language" is empty'),
        (question("a", metadata=[]), '"metadata" must be an object'),
        ({"text": " \n"}, '"text" is empty'),
        ({"messages": [{"role": "user", "content": " \n"}]}, "non-empty string"),
        ({"messages": [{"role": ["user"], "content": "a"}]}, "has role ['user']"),
    ],
)
def test_a_bad_line_is_named_with_what_is_wrong(tmp_path, line, words):
    path = write(tmp_path / "bad.jsonl", [question("fine"), line])
    with pytest.raises(DataError) as error:
        Jsonl(path=path).build(0)
    assert str(error.value).startswith(f"{path}:2: ")
    assert words in str(error.value)


def test_twenty_bad_lines_are_listed_and_all_counted(tmp_path):
    path = write(tmp_path / "bad.jsonl", ["{"] * 25)
    with pytest.raises(DataError) as error:
        Jsonl(path=path).build(0)
    lines = str(error.value).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "... 25 bad lines in all"


def test_missing_and_empty_files_are_refused(tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    with pytest.raises(DataError, match="the file is empty"):
        Jsonl(path=str(empty)).build(0)
    with pytest.raises(DataError, match="no such file"):
        Jsonl(path=str(tmp_path / "none.jsonl")).build(0)


def test_prompts_and_documents_are_not_mistaken_for_each_other(tmp_path):
    path = write(
        tmp_path / "q.jsonl", [question("a"), {"text": "b"}, {"messages": question("c")["messages"]}]
    )
    source = Jsonl(path=path, shuffle=False).build(0)
    with pytest.raises(DataError, match=":1: a prompt; documents end"):
        source.document(0)
    with pytest.raises(DataError, match=":2: a document; prompts end"):
        source.prompt(1)
    with pytest.raises(DataError, match=':3: a prompt needs a "reference"'):
        source.prompt(2)


def test_bytes_that_are_no_text_are_named_with_their_line(tmp_path):
    path = tmp_path / "b.jsonl"
    for raw, words in {
        b'{"text": "a"}\n{"text": "\xff"}\n': ":2: not JSON: byte 11 (0xff) is not UTF-8",
        '{"text": "a"}\n'.encode("utf-16"): "it may be UTF-16",
        b"\x1f\x8b\x08\x00\n": ":1: not JSON: a gzip file; unpack it",
        b"PAR1\x15\x04": "a Parquet file",
    }.items():
        path.write_bytes(raw)
        with pytest.raises(DataError) as error:
            Jsonl(path=str(path)).build(0)
        assert words in str(error.value)
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n{"text": "b"}')
    source = Jsonl(path=str(path), shuffle=False).build(0)
    assert [source.document(i).response for i in range(2)] == ["a", "b"]


def test_what_is_no_file_is_named_and_nothing_waits_for_a_pipe(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, make, words in [
        ("pipe.jsonl", os.mkfifo, "a named pipe, not a file"),
        ("link.jsonl", lambda path: path.symlink_to("away"), "a link to away, which is not there"),
        ("inner.jsonl", lambda path: path.mkdir(), "a directory, not a file"),
    ]:
        make(folder / name)
        with pytest.raises(DataError, match=f"{name}: {words}"):
            Jsonl(path=str(folder)).build(0)
    for name in ("pipe.jsonl", "link.jsonl"):
        with pytest.raises(DataError, match=f"{name}: a "):
            Jsonl(path=str(folder / name)).build(0)
    with pytest.raises(DataError, match=r"no \.jsonl file in this directory"):
        Jsonl(path=str(folder / "inner.jsonl")).build(0)


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path):
    lines = [{"text": f"line {i}"} for i in range(3)]
    path = tmp_path / "d.jsonl"
    for changed in (
        lambda text: text.replace("line 1", "LINE 1"),
        lambda text: text[: text.index("line 1")],
        lambda text: "\n" + text,
        lambda text: "",
    ):
        write(path, lines)
        source = Jsonl(path=str(path), shuffle=False).build(0)
        before = path.read_text()
        path.write_text(changed(before))
        with pytest.raises(DataError, match=r"d\.jsonl:2: the file has changed since the stage began"):
            source.document(1)
        path.write_text(before)
        assert source.document(1).response == "line 1"


def test_lines_that_are_appended_or_a_file_that_is_replaced_change_nothing(tmp_path):
    path = tmp_path / "d.jsonl"
    write(path, [{"text": "a"}, {"text": "b"}])
    source = Jsonl(path=str(path), shuffle=False).build(0)
    with path.open("a") as file:
        file.write("broken")
    assert [source.document(i).response for i in range(2)] == ["a", "b"]
    other = tmp_path / "new"
    other.write_text("other")
    other.replace(path)
    assert [source.document(i).response for i in range(2)] == ["a", "b"]


def test_an_id_stands_behind_the_hash_of_the_question(tmp_path):
    lines = [question("a"), question("a", id="gsm-7"), question("a", id=7), question("b", id="gsm-7")]
    source = Jsonl(path=write(tmp_path / "q.jsonl", lines), shuffle=False).build(0)
    own, named, numbered, other = (source.prompt(i).id for i in range(4))
    assert (named, numbered) == (f"{own}-gsm-7", f"{own}-7")
    assert other.endswith("-gsm-7")
    assert other != named
    again = Jsonl(path=write(tmp_path / "r.jsonl", [question("a", id=named)]), shuffle=False).build(0)
    assert again.prompt(0).id == named

"""Wrong data files, each named by `check` with file, line, value and remedy before anything runs."""

import json
from pathlib import Path

import pytest

from megatron_r1.check.data import data_findings
from megatron_r1.run.config import read_run

CONF = Path(__file__).parents[2] / "conf" / "tiny_zero.yaml"
OPTIM = {"optim": {"lr": 1e-3}, "steps": 1}


def question(text="compute 1 + 1", reference="2", **more):
    messages = [{"role": "user", "content": text}]
    return {"messages": messages, "reference": reference, "task": "integer", **more}


def chat(answer="<think> so </think> <answer> 2 </answer>", user="compute 1 + 1"):
    turns = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return {"messages": turns}


def pair(**metadata):
    return question(reference="", metadata=metadata)


def data(path, **more):
    return {"own": {"source": "jsonl", "path": path, **more}}


def stage(kind, path="d.jsonl", **more):
    first = {"init": "base", "data": data(path)}
    group = {"questions": 2, "group_size": 2}
    return {
        "grpo": {**first, "kind": "grpo", "rewards": {"accuracy": {}}, **group, **OPTIM},
        "sft": {**first, "kind": "sft", "examples": 2, **OPTIM},
        "rejection_sampling": {**first, "kind": "rejection_sampling", "prompts": 2, "samples": 2},
        "evaluate": {
            "kind": "evaluate", "init": "base", "evaluation": {"data": data(path, held_out="all"), **more},
        },
        "reward_model": {
            **first, "kind": "reward_model", "preferences": "pairs", "part": "response", "examples": 2,
            "evaluate": {"data": data("held_out.jsonl", held_out="all")}, **OPTIM,
        },
    }[kind] | (more if kind != "evaluate" else {})  # fmt: skip


@pytest.fixture
def found(tmp_path, monkeypatch):
    """What is found in lines that stages read, each finding as a text."""
    monkeypatch.chdir(tmp_path)

    def find(stages, lines, *, whole=False):
        text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        Path("d.jsonl").write_text("".join(line + "\n" for line in text))
        Path("held_out.jsonl").write_text(json.dumps(pair(chosen="a", rejected="b")) + "\n")
        base = {"kind": "pretrain", "data": {"a": {"source": "arithmetic"}}, "documents": 8, **OPTIM}
        head = (
            CONF.read_text()
            .partition("\nstages:")[0]
            .replace("../examples", str(CONF.parents[1] / "examples"))
        )
        Path("run.yaml").write_text(f"{head}\nstages: {json.dumps({'base': base, **stages})}\n")
        loaded = read_run(Path("run.yaml"))
        return [str(finding) for finding in data_findings(loaded, whole=whole)]

    return find


WRONG = [
    ("grpo", question(task="intger"), "no verifier for the task 'intger'"),
    ("grpo", question(reference="seven"), "reference 'seven' can't be read as integer"),
    ("grpo", question(reference=""), "can't be read as integer"),
    ("grpo", {"messages": question()["messages"]}, 'a prompt needs a "reference"'),
    ("grpo", question(reference="Z9", task="choice"), "can't be read as choice"),
    ("grpo", question(task="gym:chain_sum"), 'has no "entry"'),
    ("grpo", question(task="json:foo"), "'foo'"),
    ("grpo", question(task="code"), "task 'code'"),
    ("grpo", {**chat(), "reference": "2"}, "a document; prompts end with the user's"),
    ("grpo", {"text": "some text"}, "a document; prompts end"),
    ("grpo", {"messages": [{"role": "human", "content": "x"}], "reference": "2"}, "has role 'human'"),
    ("grpo", {"prompt": "x", "answer": "2"}, "unknown key 'answer', 'prompt'"),
    ("grpo", question() | {"reference": 2}, '"reference" must be a string, not 2'),
    ("grpo", question("<assistant> compute 1 + 1"), "message 1 (user) holds '<assistant>'"),
    ("grpo", question("what is the sum"), "no token for 'what'"),
    ("grpo", question("compute 1" + " + 1" * 200), "a prompt of"),
    ("grpo", '{"text": "a", "metadata": {"x": NaN}}', "NaN is no number of JSON"),
    ("grpo", '{"text": "\\ud800"}', "half a surrogate pair"),
    ("grpo", "[" * 9999, "nested deeper than 100"),
    ("grpo", "[", "one object a line"),
    (
        "grpo",
        question() | {"messages": [{"role": "system", "content": "x"}, *question()["messages"]]},
        "template minimal has no system turn",
    ),
    ("sft", question(), "a prompt; documents end with the assistant's"),
    ("sft", {"conversations": [{"from": "human", "value": "hi"}]}, "unknown key 'conversations'"),
    ("sft", {"instruction": "x", "output": "y"}, "unknown key 'instruction', 'output'"),
    ("sft", chat(user="<|im_start|>user compute"), "message 1 (user) holds '<|im_start|>'"),
    ("sft", chat("2 <user> compute"), "message 2 (assistant) holds '<user>'"),
    ("sft", chat("<think> so 2"), "opens <think> and never closes it"),
    ("sft", chat("<think> " + "so " * 200 + "</think> 2"), "tokens, and a pack and the model's positions"),
    ("rejection_sampling", question(task="intger"), "task 'intger'"),
    ("evaluate", question(task="intger"), "task 'intger'"),
    ("reward_model", pair(chosen="a", rejected="a"), "are the same text"),
    ("reward_model", pair(chosen="a"), 'metadata needs a non-empty "rejected"'),
]
GOOD = {"sft": chat(), "reward_model": pair(chosen="a", rejected="b")}


@pytest.mark.parametrize(("kind", "line", "words"), WRONG, ids=[str(i) for i in range(len(WRONG))])
def test_a_wrong_line_is_named_with_its_place(found, kind, line, words):
    good = GOOD.get(kind, question())
    assert found({"z": stage(kind)}, [good]) == []
    (finding,) = found({"z": stage(kind)}, [good, line])
    assert finding.startswith("d.jsonl:2: stages.z.")
    assert words in finding
    assert len(finding) < 600


def test_a_hundred_lines_are_read_and_all_where_it_is_asked_for(found):
    lines = [question(f"compute {i % 9} + 1", str(i % 9 + 1)) for i in range(100)] + [question(task="intger")]
    assert found({"z": stage("grpo")}, lines) == []
    (finding,) = found({"z": stage("grpo")}, lines, whole=True)
    assert finding.startswith("d.jsonl:101: ")


def test_twenty_bad_lines_are_listed_and_the_rest_counted(found):
    lines = found({"z": stage("grpo")}, ["{"] * 25)
    assert len(lines) == 21
    assert "25 of those that were read" in lines[-1]


def test_a_file_that_two_stages_read_alike_is_named_once_a_stage_kind(found):
    stages = {"y": stage("grpo"), "z": stage("rejection_sampling")}
    assert len(found(stages, [question(), "{"])) == 1


def test_a_side_without_lines_and_a_side_that_was_not_declared_are_named(found):
    one = stage("evaluate", questions=2)
    one["evaluation"]["data"]["own"]["held_out"] = "tenth"
    (finding,) = found({"z": one}, [question()])
    assert "none of the 1 lines of d.jsonl is on the held_out side" in finding
    del one["evaluation"]["data"]["own"]["held_out"]
    (finding,) = found({"z": one}, [question()])
    assert "nothing of this file is held out" in finding
    (finding,) = found({"z": stage("grpo")}, [])
    assert finding.endswith("d.jsonl: the file is empty")


def test_a_file_that_is_trained_on_whole_and_measured_on_is_named(found):
    stages = {"y": stage("grpo"), "z": stage("evaluate")}
    (finding,) = found(stages, [question()])
    assert "d.jsonl is trained on whole and held out for stages.z.evaluation.data.own" in finding


def test_a_reward_of_other_tasks_is_not_asked_and_a_judge_decides_on_its_own(found):
    accuracy = {"accuracy": {"tasks": ["integer"]}, "format": {"tasks": ["open"]}}
    assert found({"z": stage("grpo", rewards=accuracy)}, [question(), question(task="open")]) == []
    lines = [question(), question(task="open"), question(task="other")]
    (finding,) = found({"z": stage("grpo", rewards=accuracy)}, lines)
    assert "no reward judges the task 'other'" in finding
    judged = stage("rejection_sampling", judge={}, judged=["open"])
    assert found({"z": judged}, [question(), question(task="open")]) == []


MATH = {"tasks": ["math", "gym:*"]}
GOOD_RULE = {"accuracy": {}}
IDLE = [
    (stage("grpo", rewards={**GOOD_RULE, "format": MATH}), "rewards.format.tasks", "math, gym:*"),
    (stage("grpo", rewards={**GOOD_RULE, "format": {"tasks": []}}), "rewards.format.tasks", "no task"),
    (stage("rejection_sampling", graders={"language": MATH, **GOOD_RULE}), "graders.language.tasks", "math"),
    (stage("rejection_sampling", judge={}, judged=["opne"]), "judged", "opne"),
    (stage("evaluate", rewards={"format": MATH}), "evaluation.rewards.format.tasks", "math"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "key", "patterns"), IDLE, ids=[key for _, key, _ in IDLE])
def test_tasks_that_no_prompt_has_are_named(found, one, key, patterns):
    (finding,) = found({"z": one}, [question(), question("compute 1 + 2", "3", task="number")])
    assert f": stages.z.{key}: {patterns}" in finding
    assert "matches no task of its prompts (integer, number)" in finding


def test_tasks_of_made_prompts_are_known_and_those_of_a_long_file_only_when_it_is_read_whole(found):
    made = stage("grpo", rewards={**GOOD_RULE, "format": {"tasks": ["integr"]}})
    made["data"] = {"own": {"source": "arithmetic"}}
    (finding,) = found({"z": made}, [])
    assert "integr matches no task of its prompts (integer)" in finding
    read = {"z": stage("grpo", rewards={**GOOD_RULE, "format": {"tasks": ["integr"]}})}
    lines = [question(f"compute {i % 9} + 1", str(i % 9 + 1)) for i in range(101)]
    assert found(read, lines) == []
    assert len(found(read, lines, whole=True)) == 1

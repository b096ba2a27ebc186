"""A teacher rewrites kept chains: what it is asked, how strictly it is read, and what is kept."""

import json
from dataclasses import replace

import pytest

from megatron_r1.errors import DataError
from megatron_r1.stages.rejection_sampling.restyle import Restyle
from megatron_r1.stages.rejection_sampling.stage import RejectionSampling
from tests.stages.fake_policy import FakePolicy
from tests.stages.spelling import SpellingTokenizer

TOKENIZER = SpellingTokenizer()
LINES = [  # as rejection_sampling leaves them
    {
        "id": f"q{i}", "reference": f"{i + 1}", "task": "integer", "language": "en",
        "messages": [{"role": "user", "content": f"compute {i} + 1"},
                     {"role": "assistant", "content": f"<think> 也许 </think> <answer> {i + 1} </answer>"}],
        "metadata": {"provenance": {"stage": "cold_start"}},
    }
    for i in range(5)
]  # fmt: skip


def reply(answer):
    return f"<reasoning>one adds one</reasoning>\n<summary>It is \\boxed{{{answer}}}.</summary>"


class Teacher(FakePolicy):
    """Answers the i-th question with the i-th reply."""

    def __init__(self, replies):
        super().__init__()
        self.replies = replies

    def generate(self, prompts, sampling, *, keys, on_end=None):
        texts = [TOKENIZER.decode(ids) for ids in prompts]
        mine = [self.replies[int(text.split("compute ")[1][0])] for text in texts]
        self.says = iter([[*TOKENIZER.encode(text), TOKENIZER.eos_id] for text in mine])
        return super().generate(prompts, sampling, keys=keys)


@pytest.fixture
def run(context, tmp_path):
    (tmp_path / "cold_start" / "data").mkdir(parents=True)
    file = tmp_path / "cold_start" / "data" / "shard_00000.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in LINES))

    def start(replies, **restyle):
        stage = RejectionSampling.model_validate(
            {
                "kind": "rejection_sampling", "init": "v3", "prompts": 99, "samples": 1,
                "max_new_tokens": 200,
                "data": {"cold_start": {"source": "stage", "stage": "cold_start", "shuffle": False}},
                "filters": {"form": "summary"}, "duplicates": None, "restyle": restyle,
            }
        )  # fmt: skip
        stage.data["cold_start"].find_in(tmp_path)
        policy = Teacher(replies)
        stage.run(replace(context(policy, directory=tmp_path / "readable"), tokenizer=TOKENIZER))
        written = (tmp_path / "readable" / "data" / "shard_00000.jsonl").read_text().splitlines()
        card = json.loads((tmp_path / "readable" / "data_card.json").read_text())
        return policy, [json.loads(line) for line in written], card

    return start


def test_what_parses_and_is_still_right_is_kept_and_the_rest_is_counted(run):
    mixed = reply(4).replace("one adds", "你好 你好 你好")
    replies = [reply(1), reply(9), reply(3) + " Done!", mixed, reply(5)]
    _, lines, card = run(replies)
    assert [line["reference"] for line in lines] == ["1", "5"]
    new = lines[0]["messages"][-1]["content"]
    assert new == "<think>\none adds one\n</think>\n\nIt is \\boxed{1}."
    assert lines[0]["metadata"]["restyled_from"] == {"stage": "cold_start"}
    assert card["sampled"] == 5 == card["prompts"]  # no line is asked for twice
    assert card["dropped"] == {"wrong": 1, "unparseable": 1, "mixed": 1}


def test_the_teacher_sees_question_response_and_language_as_quotations(run):
    policy, _, _ = run([reply(i + 1) for i in range(5)])
    request = TOKENIZER.decode(policy.asked[1])
    mark = request.split("<<<")[2].split("\n")[0]
    assert f"<<<{mark}\ncompute 1 + 1\n>>>{mark}" in request
    assert f"<<<{mark}\n{LINES[1]['messages'][1]['content']}\n>>>{mark}" in request
    assert "in the language\nen." in request


def test_a_request_that_is_too_long_is_not_made(run):
    with pytest.raises(DataError, match="none of 5 was kept: 5 unparseable"):
        run([], max_prompt_tokens=20)  # without a reply to give


@pytest.mark.parametrize(
    "text",
    [
        "", "one adds one", "<reasoning>a</reasoning>", "<summary>b</summary><reasoning>a</reasoning>",
        "<reasoning> </reasoning><summary>b</summary>", "x<reasoning>a</reasoning><summary>b</summary>",
        "<reasoning>a</reasoning><reasoning>a</reasoning><summary>b</summary>",
        "<reasoning>a</think></reasoning><summary>b</summary>", "<think>still thinking",
        "<reasoning>a</reasoning><summary>b<answer>7</answer></summary>",
    ],
)  # fmt: skip
def test_anything_else_than_one_reasoning_and_one_summary_is_no_reply(text):
    assert Restyle().rewritten(text) is None


def test_a_reply_is_not_filled_in_again_and_a_reasoning_teacher_may_think_first():
    text = "<think>hm</think><reasoning>{summary}</reasoning><summary>{chain}</summary>"
    assert Restyle(form="{chain}|{summary}").rewritten(text) == "{summary}|{chain}"

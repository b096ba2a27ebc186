"""The accuracy of full chains, on responses and in an evaluation worked by hand."""

import pytest

from examples.toy.arithmetic import Arithmetic
from examples.toy.full_chain import FullChain
from megatron_r1.stages.evaluation.accuracy import Evaluation, evaluate, held_out
from megatron_r1.types import Completion
from tests.stages.fake_policy import FakePolicy

TWO_STEPS = "<think> 1 plus 1 is 2 ; then 2 plus 1 is 3 ; </think> <answer> {} </answer>"
ONE_STEP = "<think> 1 plus 1 plus 1 is 3 ; </think> <answer> {} </answer>"
CHAINS = {"source": "arithmetic", "min_operands": 3, "max_operands": 3}


def prompts(count, *, split="train"):
    source = Arithmetic.model_validate(CHAINS).build(5, split=split)
    return [source.prompt(index) for index in range(count)]


@pytest.mark.parametrize(
    ("text", "right", "value"),
    [(TWO_STEPS, True, 1.0), (TWO_STEPS, False, 0.0), (ONE_STEP, True, None), (ONE_STEP, False, None)],
)
def test_only_a_response_with_a_step_for_every_operator_counts(text, right, value):
    (prompt,) = prompts(1)
    answer = int(prompt.reference) + (not right)
    completion = Completion(prompt, [1], [2], [0.0], text.format(answer), True, 0)
    (score,) = FullChain().build().score([completion])
    assert score.value == value


def test_a_prompt_of_another_source_is_ungradable():
    (prompt,) = prompts(1)
    prompt = type(prompt)("p", prompt.messages, "3", "integer")
    (score,) = FullChain().build().score([Completion(prompt, [1], [2], [0.0], TWO_STEPS.format(3), True, 0)])
    assert score.value is None


@pytest.mark.parametrize("right", [1, 0])
def test_an_evaluation_has_the_mean_over_questions_that_were_worked_out(context, ids, right):
    section = {
        "data": {"chains": CHAINS},
        "questions": 2,
        "max_new_tokens": 40,
        "rewards": {"full_chain": {}},
    }
    config = Evaluation.model_validate(section)
    references = [int(held_out(config, seed=5).prompt(index).reference) for index in range(2)]
    answer = references[0] if right else (references[0] + 1) % 20
    policy = FakePolicy(map(ids, [TWO_STEPS.format(answer), ONE_STEP.format(references[1])]))
    metrics, _ = evaluate(context(policy), config)
    assert metrics["eval/accuracy"] == (right + 1) / 2
    assert metrics["eval/reward_full_chain"] == right

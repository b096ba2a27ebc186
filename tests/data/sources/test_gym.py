import json
import os
import subprocess
import sys

import pytest

from megatron_r1.data.sources.gym import Gym
from megatron_r1.errors import DataError

pytestmark = pytest.mark.slow  # the library takes seconds to import


def test_prompts_carry_an_entry_that_its_family_grades_1():
    import reasoning_gym

    source = Gym(family="chain_sum", options={"min_terms": 2, "max_terms": 3}).build(3)
    prompt = source.prompt(40)
    assert prompt.task == "gym:chain_sum"
    score_answer = reasoning_gym.get_score_answer_fn("chain_sum")
    assert score_answer(prompt.reference, prompt.metadata["entry"]) == 1
    assert score_answer("-1", prompt.metadata["entry"]) < 1
    json.dumps(dict(prompt.metadata))


def test_options_travel_with_the_prompt_and_the_entry_is_what_json_makes_of_it():
    prompt = Gym(family="puzzle24", options={"max_value": 9}).build(0).prompt(0)
    assert prompt.metadata["options"] == {"max_value": 9}
    for family in ("knights_knaves", "arc_agi"):  # numpy's texts, tuples of tuples
        metadata = dict(Gym(family=family).build(0).prompt(0).metadata)
        assert json.loads(json.dumps(metadata)) == metadata


def test_items_depend_on_seed_and_index_alone():
    config = Gym(family="gsm_symbolic")
    a, b = config.build(3), config.build(3)
    assert [a.prompt(i) for i in (0, 40, 7)] == [b.prompt(i) for i in (0, 40, 7)]
    assert a.prompt(0) != config.build(4).prompt(0)


def test_both_sides_of_the_split_share_no_problem():
    config = Gym(
        family="chain_sum", options={"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    )
    sides = [config.build(3, split=split) for split in ("train", "held_out")]
    train, held_out = ({s.prompt(i).question for i in range(150)} for s in sides)
    assert not train & held_out


def test_unknown_ungradable_and_unrepeatable_families_are_refused_by_name():
    with pytest.raises(DataError, match=r"'chain_sums' is unknown; did you mean chain_sum"):
        Gym(family="chain_sums").build(0)
    with pytest.raises(DataError, match="'graph_color' has no answer of its own to try"):
        Gym(family="graph_color").build(0)
    for family in ("knight_swap", "word_ladder"):
        with pytest.raises(DataError, match=f"'{family}' gives other problems in every process"):
            Gym(family=family).build(0)
    with pytest.raises(DataError, match="'composite' mixes others; name them as sources of a mixture"):
        Gym(family="composite").build(0)
    with pytest.raises(DataError, match="does not take options"):
        Gym(family="chain_sum", options={"max_term": 3}).build(0)
    with pytest.raises(DataError, match="does not take options"):
        Gym(family="chain_sum", options={"seed": 3}).build(0)
    with pytest.raises(DataError, match="can't be a corpus"):
        Gym(family="chain_sum").build(0).document(0)


def test_the_library_is_not_imported_before_it_is_used():
    code = "import sys, megatron_r1.data.sources.gym as g; g.Gym(family='x'); print(sorted(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                            env=os.environ | {"PYTHONPATH": os.getcwd()}, timeout=60)  # fmt: skip
    assert "megatron_r1.data.sources.gym" in answer.stdout
    assert "'reasoning_gym'" not in answer.stdout

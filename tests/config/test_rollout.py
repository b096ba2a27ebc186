"""The table of engines and features, what is made from it, and the names that older versions had."""

from pathlib import Path

import pytest

from megatron_r1.config.rollout import ENGINES, EVERYTHING, FEATURES, Rollout, StageRollout, conflicts, tables
from megatron_r1.config.spelling import RENAMED
from megatron_r1.errors import ConfigError
from megatron_r1.run.config import load_run

ROOT = Path(__file__).parents[2]
MICRO = ROOT / "tests" / "end_to_end" / "micro.yaml"


def test_the_page_has_the_tables() -> None:
    page = (ROOT / "docs" / "engines.md").read_text()
    assert tables() in page, "put what `python -m megatron_r1.config.rollout` prints into docs/engines.md"


def test_one_engine_can_do_everything_and_every_conflict_is_with_a_known_feature() -> None:
    for feature in FEATURES.values():
        assert EVERYTHING not in feature.engines
        assert feature.engines.keys() <= set(ENGINES)
        assert feature.beside.keys() <= FEATURES.keys()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", FEATURES)
def test_each_cell_of_the_table_is_one_conflict_or_none(name: str, engine) -> None:
    found = list(conflicts(engine, {name: "x=1"}))
    assert len(found) == (engine in FEATURES[name].engines)
    assert all(
        f"rollout.engine={engine}, which {FEATURES[name].engines[engine]}; use" in text for text in found
    )


def test_what_is_beside_is_not_judged_itself_and_a_pair_is_said_once() -> None:
    asked, beside = {"routing_replay": "routing_replay=true"}, {"cuda_graphs": "rollout.cuda_graphs=true"}
    assert list(conflicts("megatron", asked, beside)) == [
        "routing_replay: true doesn't work with rollout.cuda_graphs=true: a step as a graph notes no routes"
        "; set routing_replay to false, or set rollout.cuda_graphs to false"
    ]
    assert list(conflicts("dynamic", {}, beside)) == []


def test_a_stage_takes_from_the_run_what_it_leaves_out() -> None:
    run = load_run(MICRO, overrides=["rollout={max_off_policy_steps: 2, overlap_rewards: true}"]).value
    assert run.stages["zero"].rollout == StageRollout(max_off_policy_steps=2, overlap_rewards=True)  # type: ignore[attr-defined]
    own = StageRollout(max_off_policy_steps=0)
    assert Rollout(max_off_policy_steps=2).for_stage(own) == StageRollout(
        max_off_policy_steps=0, overlap_rewards=False
    )


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_key_is_refused_with_its_new_name_once_where_it_stands(tmp_path: Path, old: str) -> None:
    outer = "stages.zero." if old in ("steps_ahead", "rewards_beside") else ""
    text = "1" if old in ("steps_ahead", "rollout_rows") else "true"
    expected = f"{outer}{old}: now {outer}{RENAMED[old]}"
    with pytest.raises(ConfigError) as error:
        load_run(MICRO, overrides=[f"{outer}{old}={text}"])
    assert str(error.value) == f"override '{outer}{old}={text}': {expected}"

    path = tmp_path / "old.yaml"
    keys = ["stages:", "  zero:", f"    {old}: {text}"] if outer else [f"{old}: {text}"]
    path.write_text("\n".join([f"base: {MICRO}", *keys]))
    with pytest.raises(ConfigError) as error:
        load_run(path)
    assert str(error.value) == f"{path}:{1 + len(keys)}: {expected}"

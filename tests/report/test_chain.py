import json

from megatron_r1.report.chain import BOX_HEIGHT, LETTER, chain_graph, place
from megatron_r1.report.record import read_run
from tests.report.made_run import finish

STAGES = {  # name: (kind, what it starts from, what else it reads)
    "base": ("pretrain", None, ()),
    "zero": ("grpo", "base", ()),
    "measure_zero": ("evaluate", "zero", ()),
    "cold_start": ("rejection_sampling", "zero", ()),
    "dev1": ("sft", "base", ("cold_start",)),
    "student": ("pretrain", None, ()),
    "distilled": ("sft", "student", ("cold_start",)),
}


def chain(folder):
    for name, (kind, init, others) in STAGES.items():
        finish(folder / name, kind, init, {})
        artifact = json.loads((folder / name / "artifact.json").read_text())
        artifact["inputs"] = {one: "feed" for one in (init, *others) if one}
        (folder / name / "artifact.json").write_text(json.dumps(artifact))
        (folder / name / "resolved.yaml").write_text(f"stage: {{kind: {kind}, init: {init or 'null'}}}")
    return read_run(folder)


def test_a_stage_stands_behind_all_that_it_waits_for_and_never_on_another(tmp_path):
    stages = chain(tmp_path)
    boxes = place([stage for stage in stages if stage.kind != "evaluate"])
    where = {name: (box.column, box.row) for name, box in boxes.items()}
    assert where == {
        "base": (0, 0), "zero": (1, 0), "cold_start": (2, 0), "dev1": (3, 0),
        "student": (0, 1), "distilled": (3, 1),
    }  # fmt: skip
    for one in boxes.values():
        for other in boxes.values():
            apart = abs(one.x - other.x) >= one.width or abs(one.y - other.y) >= BOX_HEIGHT
            assert one is other or apart


def test_weights_are_solid_lines_and_data_dashed_ones(tmp_path):
    graph = chain_graph(chain(tmp_path), {"zero": 0.914})
    assert graph.count('<path class="edge"') == 4  # base-zero, zero-cold_start, base-dev1, student-distilled
    assert graph.count('<path class="edge data"') == 2
    assert ">measure_zero<" not in graph
    assert "grpo · 91.4 %" in graph


def test_names_are_escaped_and_nothing_is_drawn_of_nothing(tmp_path):
    assert chain_graph([], {}) == ""
    finish(tmp_path / "a&b", "sft", None, {})
    assert ">a&amp;b<" in chain_graph(read_run(tmp_path), {})


def test_a_box_is_wide_enough_for_the_longest_name(tmp_path):
    name = "zero_without_the_language_reward"
    finish(tmp_path / name, "grpo", None, {})
    finish(tmp_path / "base", "sft", None, {})
    assert {box.width for box in place(read_run(tmp_path)).values()} == {LETTER * len(name) + 12}

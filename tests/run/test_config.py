import json
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_r1 import registry
from megatron_r1.config import resolved
from megatron_r1.config.layout import Layout
from megatron_r1.errors import ConfigError
from megatron_r1.run.config import json_schema, load_run, run_config_class
from tests.run.toy_run import STAGES, TEXT, Ask

COMMITTED_SCHEMA = Path(__file__).parents[2] / "conf" / "schema.json"


@pytest.fixture(autouse=True)
def toy_stages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "stages", lambda: STAGES)
    run_config_class.cache_clear()
    yield
    run_config_class.cache_clear()


def write(text: str) -> Path:
    Path("x.yaml").write_text(text, encoding="utf-8")
    return Path("x.yaml")


def errors(text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load_run(write(text), overrides=overrides)
    return str(error.value).splitlines()


def test_a_run_is_a_chain_of_stages_in_the_order_of_the_file():
    run = load_run(write(TEXT)).value
    assert list(run.stages) == ["base", "zero"]
    assert run.stages["zero"] == Ask(kind="ask", init="base", questions=8)
    assert run.layout == Layout(ranks=2)
    assert (run.seed, run.precision, run.run_dir) == (0, "fp32", "runs")
    assert run.model.shape().num_layers == 4


def test_the_resolved_run_loads_to_the_same_run():
    run = load_run(write(TEXT)).value
    assert load_run(write(resolved(run))).value == run


def test_a_stage_can_start_from_a_checkpoint_of_hugging_face_or_from_random_weights():
    run = load_run(write(TEXT), overrides=["stages.base.init=hf:some/where", "stages.zero.init=null"]).value
    assert [stage.init for stage in run.stages.values()] == ["hf:some/where", None]


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("bsae", "no earlier stage 'bsae'; did you mean base? (or hf:PATH, or null for random weights)"),
        ("qwen", "no earlier stage 'qwen'; earlier stages: base (or hf:PATH, or null for random weights)"),
        ("zero", "'zero' is this stage itself"),
        ("late", "'late' is a later stage; move it before this one"),
        ("'hf:'", "no earlier stage 'hf:'; earlier stages: base (or hf:PATH, or null for random weights)"),
    ],
)
def test_init_must_name_what_is_there_by_then(init, message):
    text = TEXT.replace("init: base", f"init: {init}") + "  late: {kind: learn}\n"
    assert errors(text) == [f"x.yaml:17: stages.zero.init: {message}"]


def test_the_first_stage_has_no_earlier_one():
    (line,) = errors(TEXT, "stages.base.init=zero2")
    assert line.startswith("override 'stages.base.init=zero2': stages.base.init: no earlier stage 'zero2'; ")
    assert "earlier stages: none" in line


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.family=deepseekv3",
         'model.family: no such family: "deepseekv3"; did you mean deepseek_v3?; one of '),
        ("stages.base.kind=leran",
         'stages.base.kind: no such kind: "leran"; did you mean learn?; one of learn, ask'),
        ("precision=fp8",
         "precision: must be one of fp32, bf16, fp8_delayed, fp8_current, fp8_blockwise, mxfp8, "),
        ("layout.tensr=2", "layout.tensr: unknown key; did you mean tensor?"),
        ("layout.ranks=0", "layout.ranks: must be at least 1, got 0"),
        ("stages={}", "stages: must be at least 1 long, got {}"),
        ("name=a/b", "name: a name is letters, digits, _ and -, got 'a/b'"),
        ("stages.base={}", "stages.base.kind: missing; one of learn, ask"),
    ],
)  # fmt: skip
def test_a_mistake_is_explained(override, message):
    (line,) = errors(TEXT, override)
    assert line.startswith(f"override {override!r}: {message}")


def test_names_that_are_no_directory_are_refused():
    assert errors(TEXT + "  ../up: {kind: learn}\n") == [
        "x.yaml:19: stages.../up: a name is letters, digits, _ and -, got '../up'"
    ]


def test_the_schema_describes_every_key_of_a_run():
    schema = json_schema()
    assert set(schema["properties"]) == {"base", *run_config_class().model_fields}
    assert all("description" in schema["properties"][key] for key in ("name", "model", "layout", "stages"))
    assert schema["$defs"]["Ask"]["description"] == "Asks questions, several outputs each."


def test_the_committed_schema_is_that_of_the_code():
    """Of a process of its own: this one has plug-ins."""
    command = [sys.executable, "-m", "megatron_r1", "schema"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    committed = json.loads(COMMITTED_SCHEMA.read_text(encoding="utf-8"))
    same = json.loads(printed) == committed
    assert same, "run `megatron-r1 schema --write` and commit conf/schema.json"

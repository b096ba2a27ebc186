"""rollout.engine nemo where NeMo isn't installed. What it samples is tested by `make nemo` (tests/nemo)."""

import sys
from importlib import metadata

import pytest

from megatron_r1.backend.rollout import nemo_engine
from megatron_r1.config import rollout
from megatron_r1.errors import ConfigError

REMEDY = "`make nemo` builds the environment that has it .*megatron or dynamic"


def test_without_nemo_one_sentence_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=f"^rollout.engine: nemo needs nemo-toolkit 2.7, .* {REMEDY}$"):
        nemo_engine._inference()


def test_a_nemo_without_language_models_is_no_nemo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "3.0.0")
    with pytest.raises(ConfigError, match=f"this environment has 3.0.0; {REMEDY}"):
        nemo_engine._inference()


def test_a_nemo_that_is_not_whole_is_named_and_nothing_stays_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "2.7.3")
    with pytest.raises(ConfigError, match=f"inference.base` fails: No module named 'nemo'; {REMEDY}"):
        nemo_engine._inference()
    assert nemo_engine.REMOVED not in sys.modules


@pytest.mark.parametrize("engine", ["megatron", "modules", "dynamic"])
def test_the_other_engines_ask_for_nothing(engine: str) -> None:
    assert rollout.missing(engine) == []

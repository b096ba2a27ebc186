import pytest
import torch

from megatron_r1.backend.model import precision
from megatron_r1.errors import ConfigError


@pytest.fixture
def _hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(precision, "transformer_engine_available", lambda: True)


@pytest.mark.usefixtures("_hopper")
def test_a_gpu_that_lacks_a_format_is_said_before_anything_is_built():
    assert precision.precision_options("fp8_blockwise")["fp8_recipe"] == "blockwise"
    with pytest.raises(
        ConfigError, match=r"mxfp8 needs a GPU of compute capability 10\.0 or newer \(this one: 9\.0"
    ):
        precision.precision_options("mxfp8")
